# What a person types, from a clone:
#   make demo       explain the sample picture with the bundled model (no PyTorch)
#   make test       every check: lint, format, types, tests and doctests with coverage
#   make zoo        measure every timm model family and more (installs about 6 GB); make zoo-short: a few of them
#   make bench      measure start-up, the cost of maps, and a folder of 10,000 pictures
#   make clean      remove the environments and what the commands above left
#
# Choose an interpreter with PYTHON=...; by default the first Python >= 3.11 found. Add VERBOSE=1 to hear pip.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$python && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := -m pip install $(if $(VERBOSE),,-qq)
SOURCES := $(shell find src -type f -not -name '*.pyc')

.PHONY: demo test zoo zoo-short bench clean
.DELETE_ON_ERROR:

demo: .venv-demo/installed
	.venv-demo/bin/camlucida map -o camlucida-out

test: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest --cov

zoo: .venv-zoo/installed
	.venv-zoo/bin/python benchmarks/zoo.py

zoo-short: .venv-zoo/installed
	.venv-zoo/bin/python benchmarks/zoo.py --short

bench: .venv/installed
	.venv/bin/python benchmarks/start.py
	.venv/bin/python benchmarks/speed.py
	.venv/bin/python benchmarks/folder.py

clean:
	rm -rf .venv .venv-demo .venv-zoo camlucida-out build dist .coverage .mypy_cache .pytest_cache .ruff_cache

# An environment is made once. Its file "installed" is newer than all that was installed into it.
.venv/bin/python .venv-demo/bin/python .venv-zoo/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found. Install one, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python >= 3.11; name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(@D:/bin=) || { rm -rf $(@D:/bin=); echo "No virtual environment could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv-demo/installed: pyproject.toml constraints.txt README.md LICENSE $(SOURCES) | .venv-demo/bin/python
	.venv-demo/bin/python $(INSTALL) -c constraints.txt .
	@touch $@

# The first line brings a pip that knows dependency groups (--group), the second installs.
.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/python $(INSTALL) -c constraints.txt --upgrade pip
	.venv/bin/python $(INSTALL) -c constraints.txt -e '.[torch]' --group test
	@touch $@

.venv-zoo/installed: pyproject.toml constraints-zoo.txt | .venv-zoo/bin/python
	.venv-zoo/bin/python $(INSTALL) -c constraints-zoo.txt -e '.[zoo]' onnx onnxscript
	@touch $@
