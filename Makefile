# One verb a line; README.md says what they do.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
APT := gcc libc6-dev crun runc nftables libnftables1 libseccomp2 busybox-static iproute2 e2fsprogs tini golang-github-containers-common
APT_TEST := skopeo etcd-server etcd-client
# Each worker of the tests is a host of its own; without them tests run one after the other.
WORKERS := auto
PYTEST := $(PYTHON) -m pytest -n $(WORKERS) --dist worksteal
APT_BENCH := docker.io podman containerd netavark iptables

.PHONY: demo test test-kill test-model test-partitions soak lint bench install system system-test system-bench lock clean

demo: install
	$(PYTHON) demo/demo.py

test: install system-test
	$(PYTEST)

# Kill and fail anywhere on real containers, in full: minutes.
test-kill: install system-test
	PORTLAYER_FULL=1 $(PYTEST) tests/e2e/test_kill.py

# The model-based test for longer.
test-model: install system-test
	PORTLAYER_MODEL_EXAMPLES=2000 $(PYTEST) --timeout=10800 tests/commit/test_model.py tests/apart/test_model.py

# All cuts between hosts that are network namespaces: minutes.
test-partitions: install system-test
	PORTLAYER_FULL=1 $(PYTHON) -m pytest tests/partitions

# Mixed work against a server that is killed again and again; SOAK_CYCLES, SOAK_KILLS, SOAK_SEED.
soak: install
	$(PYTHON) -m soak --json soak/results/last.json

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: install system-bench
	$(PYTHON) -m bench

install: system $(VENV)/installed

$(VENV)/installed: requirements.lock pyproject.toml setup.py src/portlayer/substrates/linux/shim.c
	@python3 -c 'import ensurepip, venv' 2>/dev/null || .ci/packages python3-venv
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --require-hashes --requirement requirements.lock
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

system:
	@.ci/packages $(APT)

system-test:
	@.ci/packages $(APT_TEST)

system-bench:
	@.ci/packages $(APT_BENCH)

lock:
	uv pip compile -q pyproject.toml --extra dev --extra tracing --generate-hashes --no-header --python-version 3.11 -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build
