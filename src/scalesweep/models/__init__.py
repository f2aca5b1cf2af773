"""The ladder, layer groups, and what a model's structure says."""

import logging

# peft imports bitsandbytes where it is installed, which then warns of every further package that it could use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
