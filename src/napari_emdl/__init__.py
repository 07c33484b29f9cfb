"""napari-emdl."""
