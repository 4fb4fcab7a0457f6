"""What the run knows of every member as a round opens, put before a method that decides by the times of devices."""

from collections.abc import Mapping

from aggregator.core.method import Present
from aggregator.core.rating.round_cost import Known
from aggregator.device_costs import ROUNDS_OBSERVED_MAX, Trained, known_of, observations
from aggregator.federation import Federation
from aggregator.ledger import Ledger
from aggregator.profiles.kept import ProfileFacts
from aggregator.results import RoundResult
from aggregator.settings import Settings
from device_runtime.wire.errors import EngineError
from device_runtime.wire.messages import Hello


class MemberTimes:
    """Gathers what is known, and remembers of which profiles it has said that they are not used."""

    def __init__(self, settings: Settings, federation: Federation) -> None:
        self._settings = settings
        self._federation = federation
        self._told: set[tuple[str, str]] = set()

    def present(
        self, ledger: Ledger, members: Mapping[str, Hello], profiles: Mapping[str, ProfileFacts], round_index: int
    ) -> tuple[dict[str, Present], list[str]]:
        """Every member with its times, and what a person may want to know, each sentence once a process."""
        first = max(1, round_index - ROUNDS_OBSERVED_MAX)
        engines = {device: self._engine(hello) for device, hello in members.items()}
        results = ledger.results(RoundResult, first=first)
        observed = observations(results, ledger.accepted_offers(first=first), engines)
        trained, known = self._trained(), dict[str, Known]()
        notes: list[str] = []
        for device, hello in members.items():
            profile = profiles.get(device)
            known[device], why = known_of(hello, engines[device], trained, profile, observed.get(device, ()))
            if why and profile is not None and (device, profile.sha) not in self._told:
                self._told.add((device, profile.sha))
                notes.append(f"the profile of {device} is kept and not used for its rate: {why}")
        return {d: Present(hello.sample_count, known[d]) for d, hello in members.items()}, notes

    def _engine(self, hello: Hello) -> str:
        """The engine that the device is assigned; "" when it can be assigned none."""
        try:
            return self._federation.artifacts.for_engines(hello.engines)[0]
        except EngineError:
            return ""

    def _trained(self) -> Trained:
        s = self._settings
        return Trained(
            model=self._federation.model.name,
            input_shape=s.input.shape,
            class_count=s.model.classes,
            batch_size=s.training.batch_size,
            epoch_count=s.training.local_epochs,
        )
