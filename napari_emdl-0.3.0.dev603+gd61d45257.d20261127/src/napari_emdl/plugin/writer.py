"""napari writer: layers with scale, units, features and colours in one HDF5 file, and images as TIFF with units."""

from napari_emdl.gui.kit.layerfile import write_layers, write_tiff

__all__ = ["write_layers", "write_tiff"]
