"""The Beam backend: each stage is one pipeline, launched in a process of its own on any runner."""
