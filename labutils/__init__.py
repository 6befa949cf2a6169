"""Helper package of the deep generative lab: one idea a module, imports point downward only.

commands/  the command `labutils`, a module for each of its words; nothing else imports them
teaching   keynumbers, parameters, checks, plots, live    judged numbers; typed parameters; oracles; every figure;
                                                      a training one can watch
           exercises, exercises_*, marking           what is asked, what goes wrong, how it is judged
methods    divergences, vae, priors, gan, fid, latent    the lab's mathematics, one function per formula
ground     distributions, networks, features, data, street_digits, distortions, reference, training, estimates
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("deep-generative-lab")
except PackageNotFoundError:  # a clone on sys.path, not installed
    __version__ = "0+clone"
