"""Where model folders lie (the Hugging Face Hub, a local directory, inside the package): load, save, push."""

from vidzoo.hub.folder import ModelFolder, read_folder, save_pretrained
from vidzoo.hub.remote import fetch, fetch_file, push
from vidzoo.hub.source import embedded, parse_source

__all__ = ["ModelFolder", "embedded", "fetch", "fetch_file", "parse_source", "push", "read_folder", "save_pretrained"]
