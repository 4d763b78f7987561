"""How fast this package's engines are, measured against others in the same run."""
