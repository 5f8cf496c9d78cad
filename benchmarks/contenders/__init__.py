"""The same work as different people would write it, each way in a module of its own."""
