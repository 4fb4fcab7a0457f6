"""The device's shell: one loop that feeds the agent with events and carries out its commands."""

import logging
import queue
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_runtime import agent
from device_runtime.agent import AgentState
from device_runtime.config import DeviceSettings
from device_runtime.data import load_local_data
from device_runtime.engines import available_engines, open_engine
from device_runtime.heart import Heart
from device_runtime.link import Arrived, LinkDown, LinkUp, MqttLink, make_inbox
from device_runtime.metering.phases import SpanTimer
from device_runtime.offered_profile import offered_profile
from device_runtime.personal import Choice
from device_runtime.personal_file import PersonalFiles
from device_runtime.store import BlobStore, write_atomic
from device_runtime.threads import training_threads
from device_runtime.training import REFUSALS, Result, Traffic, Workbench
from device_runtime.wire.envelope import decode_message, encode_message
from device_runtime.wire.errors import EngineError, LocalWireError, RemoteWireError
from device_runtime.wire.manifest import MANIFEST_FILE, decode_manifest
from device_runtime.wire.messages import Assignment, Get, Gone, Goodbye, Hello, Message, Offer
from device_runtime.wire.support import sha256_hex
from device_runtime.wire.tensors import decode_files
from device_runtime.wire.topics import all_topic, down_topic, up_topic
from device_runtime.wire.version import VERSION

TICK_S = 0.25
log = logging.getLogger("espalier.device")


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool holds: an offer, and what was personal in the settings when its update was made."""

    offer: Offer
    personal: Choice


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker thread's answer."""

    assignment: Assignment
    result: Result | None
    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """The worker thread met a bug of ours: the process ends, and its supervisor starts it again from the store."""

    error: BaseException


class Device:
    """One device process: link, store, worker thread and agent, put together."""

    def __init__(self, settings: DeviceSettings) -> None:
        self._settings = settings
        self._folder = Path(settings.folder)
        self._blobs = BlobStore(self._folder / "blobs")
        self._spool = self._folder / "spool.json"
        self._personal = PersonalFiles(self._folder, settings.personal)
        self._personal.check()
        self._threads = training_threads(settings.threads)
        self._data = load_local_data(settings.data.source, settings.data.x, settings.data.y)
        best = open_engine(settings.engine).name  # a device that cannot train says so before it joins
        engines = available_engines() if settings.engine == "auto" else (best,)
        self._bench: tuple[str, Workbench] | None = None
        self._download, self._upload = SpanTimer(), SpanTimer()
        self._profile = offered_profile(settings, self._blobs)
        session = secrets.token_hex(8)
        hello = Hello(
            device=settings.name,
            session=session,
            engines=engines,
            sample_count=len(self._data),
            version=VERSION,
            profile=self._profile,
        )
        self._state = AgentState(hello=hello, leave_when_released=settings.leave_when_released)
        self._inbox = make_inbox()
        site, name = settings.link.site, settings.name
        self._up = up_topic(site, name)
        self._link = MqttLink(
            settings.link,
            client_id=f"{site}-{name}",
            subscriptions=[down_topic(site, name), all_topic(site)],
            inbox=self._inbox,
            will=(self._up, encode_message(Gone(device=name, session=session))),
        )
        self._leaving: str | None = None
        self._heart, self._step_count = Heart(), 0

    def run(self, stop: threading.Event) -> str:
        """Serve until released or `stop` is set; returns why it ended. Raises LinkError when no broker answers."""
        self._link.connect()
        log.info("connected to %s:%d", self._settings.link.host, self._settings.link.port)
        try:
            while self._leaving is None and not stop.is_set():
                self._heart.beat(training=self._state.phase == "training", step_count=self._step_count)
                try:
                    self._handle(self._inbox.get(timeout=TICK_S))
                except queue.Empty:
                    self._step(agent.Tick())
            reason = self._leaving or "stopped"
            hello = self._state.hello
            self._publish(Goodbye(device=hello.device, session=hello.session, reason=reason))
            self._link.flush()
            return reason
        finally:
            self._link.close()

    # --- events -----------------------------------------------------------------------------------------------

    def _handle(self, event: object) -> None:
        match event:
            case LinkUp():
                self._step(agent.Connected())
            case LinkDown(reason):
                log.warning("link lost (%s); reconnecting", reason)
                self._step(agent.Disconnected())
            case Arrived(_, payload):
                self._arrived(payload)
            case Finished():
                self._finished(event)
            case Crashed(error):
                raise error
            case _:
                raise AssertionError(f"unknown event {event!r}")

    def _arrived(self, payload: bytes) -> None:
        try:
            message = decode_message(payload, allow_unsigned=self._settings.link.allow_unsigned)
        except RemoteWireError as error:
            log.warning("ignored a message: %s", error)
            return
        if not isinstance(message, Assignment):
            self._step(agent.Received(message))
            return
        wanted = (message.graph_sha, message.params_sha, *message.support_shas)
        lacking = tuple(sha for sha in dict.fromkeys(wanted) if self._blobs.get(sha) is None)
        self._step(agent.Assigned(message, lacking, self._spooled(message.id)))

    def _finished(self, event: Finished) -> None:
        assignment, result = event.assignment, event.result
        if result is None:
            log.error("assignment %s: %s", assignment.id, event.reason)
            self._step(agent.TrainingFailed(assignment.id, event.reason))
            return
        offer = Offer(
            assignment_id=assignment.id,
            device=assignment.device,
            update_sha=sha256_hex(result.update),
            size_bytes=len(result.update),
            sample_count=result.sample_count,
            measurement=result.measurement,
            kept_back=result.personal.names,
        )
        self._step(agent.Trained(offer, result.update))

    def _step(self, event: agent.Event) -> None:
        before = self._state.phase
        self._state, commands = agent.step(self._state, event, time.monotonic_ns())
        self._time_spans(before, self._state.phase)
        for command in commands:
            self._carry_out(command)

    def _time_spans(self, before: agent.Phase, after: agent.Phase) -> None:
        if before == after:
            return
        if after == "fetching":
            self._download.begin()
        if before == "fetching" or after == "training":
            self._download.end()
        if after == "offering":
            self._upload.begin()
        if before == "offering":
            self._upload.end()
        log.debug("%s -> %s", before, after)

    # --- commands ---------------------------------------------------------------------------------------------

    def _carry_out(self, command: agent.Command) -> None:
        match command:
            case agent.Publish(message):
                self._publish(message)
            case agent.StoreBlob(_, data):
                self._blobs.put(data)
            case agent.Train(assignment):
                threading.Thread(target=self._train, args=(assignment,), daemon=True).start()
            case agent.SpoolUpdate(offer, update):
                self._blobs.put(update)
                spooled = Spooled(offer=offer, personal=self._settings.personal)
                write_atomic(self._spool, msgspec.json.encode(spooled))
            case agent.Serve(get):
                self._serve(get)
            case agent.Unspool(receipt):
                self._unspool(receipt.assignment_id)
                log.info("update for %s: %s %s", receipt.assignment_id, receipt.verdict, receipt.reason)
            case agent.Leave(reason):
                self._leaving = reason

    def _publish(self, message: Message) -> None:
        self._link.publish(self._up, encode_message(message))

    def _serve(self, get: Get) -> None:
        """From the spool on disk, not from the agent's memory: the offer may be one of an earlier life."""
        offer = self._read_spool()
        open_shas = {offer.update_sha} if offer is not None else set()
        open_shas |= {self._profile.sha} if self._profile is not None else set()
        for index in get.indices if get.sha in open_shas else ():
            chunk = self._blobs.chunk(get.sha, index)
            if chunk is not None:
                self._publish(chunk)

    def _read_spool(self) -> Offer | None:
        """The offer not yet receipted, None when there is none, or when it would upload what is personal by now."""
        try:
            spooled = msgspec.json.decode(self._spool.read_bytes(), type=Spooled)
        except (FileNotFoundError, UnicodeDecodeError, msgspec.MsgspecError):
            return None
        return spooled.offer if self._personal.fits(spooled.offer.kept_back, spooled.personal) else None

    def _spooled(self, assignment_id: str) -> Offer | None:
        """The offer left by this assignment, if its update is still whole."""
        offer = self._read_spool()
        if offer is None or offer.assignment_id != assignment_id:
            return None
        return offer if self._blobs.get(offer.update_sha) else None

    def _unspool(self, assignment_id: str) -> None:
        """Forget a receipted update and every blob but the profile and what the present assignment needs."""
        if self._spooled(assignment_id) is not None:
            self._spool.unlink(missing_ok=True)
        current = self._state.assignment
        if current is not None:
            keep = {current.graph_sha, current.params_sha, *current.support_shas}
            offer = self._state.offer
            keep |= {offer.update_sha} if offer is not None else set()
            keep |= {self._profile.sha} if self._profile is not None else set()
            self._blobs.keep_only(keep)

    # --- the worker thread ------------------------------------------------------------------------------------

    def _train(self, assignment: Assignment) -> None:
        try:
            result, reason = self._work(assignment), ""
        except (*REFUSALS, LocalWireError) as error:
            result, reason = None, str(error)
        except MemoryError:
            result, reason = None, "out of memory"
        except BaseException as error:
            self._inbox.put(Crashed(error))
            raise
        self._inbox.put(Finished(assignment, result, reason))

    def _work(self, assignment: Assignment) -> Result:
        traffic = Traffic(
            self._link.bytes_received, self._link.bytes_published, self._download.phase, self._upload.phase
        )
        bench = self._open(assignment)
        params, supports = (self._blobs.get(s) for s in (assignment.params_sha, assignment.support_shas[0]))
        if params is None or supports is None:
            raise EngineError("a blob of the assignment vanished from the store; it will be fetched again.")
        personal = self._personal.begin(assignment, bench.manifest)
        result = bench.carry_out(assignment, params, supports, traffic, self._progress, personal)
        self._personal.keep(assignment, result.personal_before, result.personal)
        log.info("round %d trained: %d steps", assignment.model_version, result.measurement.step_count)
        return result

    def _open(self, assignment: Assignment) -> Workbench:
        """The workbench for the assignment's graph, opened once per graph."""
        if self._bench is None or self._bench[0] != assignment.graph_sha:
            folder = self._unpack(assignment.graph_sha)
            engine = open_engine(decode_manifest((folder / MANIFEST_FILE).read_bytes()).engine)
            bench = Workbench(engine, folder, self._data, threads=self._threads, seed=assignment.hyper.seed)
            self._bench = (assignment.graph_sha, bench)
        return self._bench[1]

    def _unpack(self, graph_sha: str) -> Path:
        """The artifact as a folder of files, written once."""
        folder = self._folder / "artifacts" / graph_sha[:16]
        data = self._blobs.get(graph_sha)
        if data is None:
            raise EngineError("the artifact vanished from the store; it will be fetched again.")
        for name, content in decode_files(data).items():
            path = folder / name
            if not path.is_file() or path.read_bytes() != content:
                write_atomic(path, content)
        return folder

    def _progress(self, _done: int, _total: int, _loss: float) -> None:
        """Every step feeds the watchdog's question whether training goes on."""
        self._step_count += 1
