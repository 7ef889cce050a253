"""What type checkers must reject: the lines that end in "wrong", and no others."""

import numpy as np

import rmsprop
from rmsprop.functional import rmsprop_

w = np.ones(3)
rmsprop.RMSprop(5)  # wrong
rmsprop.RMSprop("weights")  # wrong
rmsprop.RMSprop(["weights"])  # wrong
rmsprop.RMSprop([["weights"]])  # wrong
rmsprop.RMSprop([(w, 1.0)])  # wrong
rmsprop.RMSprop({1: w})  # wrong
rmsprop.RMSprop([w, None])  # wrong
rmsprop.RMSprop(w, 0.1, 0.9)  # wrong
rmsprop.RMSprop(w, lr="0.1")  # wrong
rmsprop.RMSprop(w, lr=lambda: 0.1)  # wrong
rmsprop.RMSprop(w, alfa=0.9)  # wrong
rmsprop.RMSprop(w, nonfinite="skipp")  # wrong
rmsprop.Adagrad(w, nonfinite=None)  # wrong
rmsprop.RMSprop(w, num_threads=1.5)  # wrong
rmsprop.Adagrad(w, momentum=0.9)  # wrong

opt = rmsprop.RMSprop(w)
opt.step("gradient")  # wrong
opt.step(["gradient"])  # wrong
opt.step([1.0])  # wrong
opt.step(w, 2.0)  # wrong
opt.step(w, grad_scale="2")  # wrong
opt.nonfinite = "skipp"  # wrong
opt.lr = "0.1"  # wrong
opt.state[0]["square_avg"]
opt.save(3)  # wrong

rmsprop_(w, w, w, lr=0.1)
rmsprop_(1.0, w, w, lr=0.1)  # wrong
rmsprop_(w, w, lr=0.1)  # wrong
rmsprop_(w, w, w)  # wrong
rmsprop.set_num_threads("2")  # wrong
