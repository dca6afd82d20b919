"""The methods: one visible registry, one file a family."""
