"""Helper package of the deep generative lab: one idea a module, imports point downward only.

front      cli, runs, report, doctor, remake, address  the command `labutils`
teaching   keynumbers, checks, plots                 judged numbers; oracles; every figure
methods    divergences, vae                          the lab's mathematics, one function per formula
ground     distributions, networks, features, data, distortions, reference, training, estimates, parameters
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("deep-generative-lab")
except PackageNotFoundError:  # a clone on sys.path, not installed
    __version__ = "0+clone"
