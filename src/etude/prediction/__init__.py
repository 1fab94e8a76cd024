"""A trained network on sounds that it has not seen: files, folders, lists to tables and a page."""
