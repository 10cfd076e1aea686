"""Federations put together anew from the parts of another: another link, another start."""

from dataclasses import replace

from fedfit.experiment.build import Experiment, assemble
from fedfit.rounds.link import Link
from tests.builders import randomise


def connect(made: Experiment, link: Link) -> None:
    """``made`` talks to its devices over ``link`` from now on."""
    made.federation = replace(made.federation, link=link)


def randomised(made: Experiment, seed: int = 4) -> Experiment:
    """The same federation from an adapter whose B is not zero."""
    randomise(made.parts.model, seed)
    return assemble(made.parts)
