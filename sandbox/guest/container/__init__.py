"""How the guest begins in a container, which host and runtime have contained before its first instruction."""
