"""How well an explanation of a latent fits where it fires: one scorer per file, its function bears the file's name."""
