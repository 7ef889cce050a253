"""What the state machines of both APIs have in common: the optimizers they know, and the rules that name no array."""

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, rule

import rmsprop


class AnyOptimizerMachine(RuleBasedStateMachine):
    """Knows pairs of an optimizer and its model, and what was saved of them, and checks all of them at the end."""

    pairs = Bundle("pairs")
    saves = Bundle("saves")
    steps_tried = 0

    def __init__(self):
        super().__init__()
        self.all_pairs = []
        self.num_threads = rmsprop.get_num_threads()

    def teardown(self):
        rmsprop.set_num_threads(self.num_threads)
        for pair in self.all_pairs:
            pair.check()

    def keep(self, pair):
        self.all_pairs.append(pair)
        pair.check()
        return pair

    @rule(pair=pairs, nonfinite=st.sampled_from(["propagate", "skip", "raise"]))
    def change_what_becomes_of_infinities(self, pair, nonfinite):
        pair.optimizer.nonfinite = pair.model.nonfinite = nonfinite

    @rule(pair=pairs, num_threads=st.sampled_from([None, 1, 2, 3, 1024]))
    def change_the_threads_of_an_optimizer(self, pair, num_threads):
        pair.optimizer.num_threads = num_threads
        assert pair.optimizer.num_threads == num_threads

    @rule(num_threads=st.integers(1, 4))
    def change_the_threads_of_the_process(self, num_threads):
        rmsprop.set_num_threads(num_threads)
