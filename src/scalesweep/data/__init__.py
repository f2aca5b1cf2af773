"""Any source → disjoint splits → tokens, memory-mapped and fingerprinted.

`prepare` reads and splits, `tokenize` writes the token folder once, `TokenizedData` opens it, and `BatchPlan` assigns
examples to optimizer steps.
"""
