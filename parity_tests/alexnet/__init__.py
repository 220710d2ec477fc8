"""The AlexNets as cases of netparity, and the levels that compare their training."""
