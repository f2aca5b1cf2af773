"""Any source → disjoint splits → tokens, memory-mapped and fingerprinted.

`prepare` reads and splits, `tokenize` writes the token folder once, `TokenizedData` opens it, `BatchPlan` says which
examples each optimizer step sees.
"""
