# Every verb is one line of mlcourse/environment.py, so that a machine without make runs the same: python mlcourse/environment.py lab
PYTHON ?= python3
export NB TORCH

# A Python may be there and not run (a shim of pyenv): each is tried before it is taken. PYTHON may be a path with blanks,
# or a command with options (py -3).
works = -c "import sys; sys.exit(sys.version_info < (3, 6))" 2>/dev/null
course = @if "$(PYTHON)" $(works); then exec "$(PYTHON)" mlcourse/environment.py $@; fi; \
	if $(PYTHON) $(works); then exec $(PYTHON) mlcourse/environment.py $@; fi; \
	for python in python3 python3.13 python3.12 python3.11 python /usr/bin/python3; do \
		if $$python $(works); then \
			echo "mlcourse: PYTHON=$(PYTHON) does not run here; taking $$python" >&2; \
			exec $$python mlcourse/environment.py $@; \
		fi; \
	done; \
	echo "mlcourse: no Python runs here: install 3.11 or newer, then name it: make $@ PYTHON=python3.12" >&2; exit 2

.PHONY: help lab test env test-full tidy golden site clean
help:      ; $(course)  # what there is
lab:       ; $(course)  # make .venv, open JupyterLab at the first notebook
test:      ; $(course)  # everything that CI runs; NB=05 runs one notebook's tests
env:       ; $(course)  # make .venv; TORCH=cpu takes PyTorch without CUDA
test-full: ; $(course)  # the same as test, with every notebook at its full length
tidy:      ; $(course)  # write the notebooks canonically
golden:    ; $(course)  # fill the golden outputs from a fresh run
site:      ; $(course)  # make the course's web pages in runs/pages, without a network; NB=05 one notebook's
clean:     ; $(course)  # remove caches and build folders; work/, runs/ and .venv stay
