"""Tests in a real browser: JupyterLab with the notebooks, and the pages that the commands write."""
