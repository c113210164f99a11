"""Several ranks acting as one."""
