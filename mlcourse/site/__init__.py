"""The course as static pages: what was executed once is shown to everybody, without a kernel and without a network.

`command.py` is `mlcourse site`. It executes the notebooks, or takes them from the cache (`executed.py`), writes a
folder of sources (`sources.py`: notebooks, pages of `docs`, methods, reference), lets Sphinx make pages of them
(`building.py`), and looks at the pages that came out (`checking.py`): links, texts of pictures, and that nothing is
asked of another host. `pdf.py` prints them.
"""
