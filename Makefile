# Every verb is one line of mlcourse/environment.py, so that a machine without make runs the same: python mlcourse/environment.py lab
PYTHON ?= python3
export NB TORCH

.PHONY: lab test env test-full tidy golden
lab:       ; @$(PYTHON) mlcourse/environment.py lab        # make .venv, open JupyterLab at the first notebook
test:      ; @$(PYTHON) mlcourse/environment.py test       # everything that CI runs; NB=05 runs one notebook's tests
env:       ; @$(PYTHON) mlcourse/environment.py env        # make .venv; TORCH=cpu takes PyTorch without CUDA
test-full: ; @$(PYTHON) mlcourse/environment.py test-full  # the same as test, with every notebook at its full length
tidy:      ; @$(PYTHON) mlcourse/environment.py tidy       # write the notebooks canonically
golden:    ; @$(PYTHON) mlcourse/environment.py golden     # fill the golden outputs from a fresh run
