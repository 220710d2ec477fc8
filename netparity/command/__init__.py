"""What ``python -m netparity`` does. Both frameworks are loaded only where a command needs them."""
