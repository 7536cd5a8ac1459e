# Every target sets up .venv by itself; it needs Python 3.11 or later.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup
setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[report,tables,agents,traffic,railways,onnx,policies,atari,docs,test]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps flatland-rl flatland-baselines
	touch $@

demo: setup
	$(BIN)/s2rm demo

test: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The documentation with the explorer of the shipped models in it; npm fetches what runs them in a browser.
.PHONY: docs
docs: setup
	$(BIN)/s2rm explore --out docs/live
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Takes days on 2 cores; a second call continues where the first one stopped. Not here: sequential MNIST, which needs
# files of digits, and S2GRU of 256 units, which needs a GPU.
.PHONY: results results-page results-check
results: setup
	$(BIN)/python experiments/search.py
	$(BIN)/python experiments/learning.py
	$(BIN)/python experiments/positions.py
	$(BIN)/python experiments/family.py
	$(BIN)/python experiments/rollouts.py
	$(BIN)/python experiments/ablations.py
	$(BIN)/python experiments/six_balls.py
	$(BIN)/python experiments/blind_steps.py
	$(BIN)/python experiments/ways_to_roll_out.py
	$(BIN)/python experiments/variational.py
	$(BIN)/python experiments/long.py
	$(BIN)/python experiments/long.py --labels "S2GRU 40 x 64" --updates 20000 --learning-rate 4e-3 --beta2 0.98
	$(BIN)/python experiments/pretrained.py
	$(BIN)/python experiments/pretrained_field.py
	$(BIN)/python experiments/removed_modules.py
	$(BIN)/python experiments/enclaves.py
	$(BIN)/python experiments/sensor_checks.py
	$(BIN)/python experiments/first_guess.py
	for data in molene ndbc; do $(BIN)/python experiments/sensors.py --data $$data --seeds 3 || exit 1; done
	$(BIN)/python experiments/sensors.py --data rain --updates 500
	$(BIN)/python experiments/sensors.py --data argo
	$(BIN)/python experiments/positions_sensors.py
	$(BIN)/python experiments/known_ahead.py --updates 250
	$(BIN)/python experiments/scenarios.py
	$(BIN)/python experiments/leave_one_out.py
	$(BIN)/python experiments/irish_wind.py
	$(BIN)/python experiments/aqi36.py
	$(BIN)/python experiments/wavelengths.py
	$(BIN)/python experiments/skirmish.py --updates 1500
	$(BIN)/python experiments/skirmish.py --corrects --updates 1500
	$(BIN)/python experiments/skirmish.py --corrects --drop-views 0.8 --updates 7000 --warmup 200 --learning-rate 1e-3 \
	    --models s2gru lstm --seeds 2
	$(BIN)/python experiments/railways.py
	$(BIN)/python experiments/railways.py --corrects
	for size in frames curtain masses four crowd; do $(BIN)/python experiments/frames.py --size $$size || exit 1; done
	$(BIN)/python experiments/strips.py
	$(BIN)/python experiments/sequences.py copying --models rims lstm --seeds 5 --updates 12000
	$(BIN)/python experiments/sequences.py copying --models gru rmc --updates 12000
	$(BIN)/python experiments/sequences.py adding
	$(BIN)/python experiments/sequences.py adding --size long --models rims lstm gru --updates 3000 \
	    --out results/adding-long.json
	$(BIN)/python experiments/sequences.py copying --ablations --updates 12000 --seeds 1
	$(BIN)/python experiments/picking.py
	$(BIN)/python experiments/atari.py
	$(BIN)/python experiments/springs.py
	$(BIN)/python experiments/planning.py
	$(BIN)/python experiments/traffic.py
	$(BIN)/python experiments/page.py

results-page: setup
	$(BIN)/python experiments/page.py

results-check: setup
	$(BIN)/python experiments/page.py --check
