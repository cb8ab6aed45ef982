# Two commands always work on a fresh machine with git, make and python3: `make demo` and `make test`.
# Everything is installed into .venv from the hashed lock file; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Where it is set, each of the many Pythons that tests and examples start would compile Ray anew: a second of CPU each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check mutants lines fmt lock sbom protos site dist clean bench cluster cluster-down cluster-binaries

demo: $(STAMP)
	$(BIN)/python examples/train_nvlink_gang.py

# Brings up its own Kubernetes cluster, and builds it first where the cache has none (minutes, once).
test: $(STAMP)
	sh tests/cluster/apt.sh browser
	$(BIN)/python -m tests.cluster build --helm --prometheus-rules
	$(BIN)/python -m tests

# A real Kubernetes cluster on this machine; docs/testbed.md.
cluster: $(STAMP)
	sh tests/cluster/apt.sh
	$(BIN)/python -m tests.cluster up

cluster-down: $(STAMP)
	$(BIN)/python -m tests.cluster down

cluster-binaries: $(STAMP)
	sh tests/cluster/apt.sh
	$(BIN)/python -m tests.cluster build

# The quick loop: format, lint, types, import contract, and the tests that start no cluster.
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest -m "not ray and not cluster and not slow and not gpu"

# How many small changes of the code the fast tests notice, and how many statements they run; docs/testbed.md.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutation mutants

lines: $(STAMP)
	$(BIN)/python -m tests.mutation lines

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python benchmarks/probe.py
	$(BIN)/python benchmarks/placement_latency.py
	$(BIN)/python benchmarks/plan_scale.py

# uv is taken from PATH, or else installed into the environment itself.
$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(BIN):$$PATH"; uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.txt
	PATH="$(BIN):$$PATH"; uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $(STAMP)

# What is pinned, by hash: for development, in the image, and to make the image. The last two are installed by pip, which
# knows no override. And the Ray before ours, for its smoke test.
lock:
	PATH="$(BIN):$$PATH"; uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 \
	    --generate-hashes --no-header --quiet --output-file requirements.txt
	PATH="$(BIN):$$PATH"; uv pip compile --no-config pyproject.toml --extra image --universal --python-version 3.10 \
	    --generate-hashes --no-header --quiet --output-file kube/image/requirements.txt
	PATH="$(BIN):$$PATH"; uv pip compile --no-config --group pyproject.toml:build --universal --python-version 3.10 \
	    --generate-hashes --no-header --quiet --output-file kube/image/build-requirements.txt
	PATH="$(BIN):$$PATH"; uv pip compile --no-config tests/e2e/older_ray.in --no-deps --universal --python-version 3.10 \
	    --generate-hashes --no-header --quiet --output-file tests/e2e/older_ray.txt

# What is installed here, as CycloneDX. The image's own list is in it, and comes out of its build: kube/image/Dockerfile.
sbom: $(STAMP)
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-format JSON --output-file sbom.cdx.json $(BIN)/python

# The kubelet's messages from our own .proto files.
protos: $(STAMP)
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. ray_dra/simulated/dra/proto/*.proto

# The docs as a site, in build/site; a link that leads nowhere fails it. To read: python3 -m http.server -d build/site
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file site/mkdocs.yml

# The wheel and the source distribution, as they would be published. The compiled library is not in them: it is compiled
# where it is first used, or by the image's build.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
