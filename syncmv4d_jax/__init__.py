"""SyncMV4D in JAX: synchronized multi-view joint diffusion of video and 4D motion."""

__version__ = "0.1.0"
