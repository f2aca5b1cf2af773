"""The same search on recorded or modelled learning curves, with a virtual clock."""
