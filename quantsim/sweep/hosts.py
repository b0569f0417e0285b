"""Several processes as one: who they are, how they meet, what they agree on."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

#: Environment that says a launcher has started several processes, and what it is called.
_LAUNCHERS = {
    "SLURM": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "Cloud TPU": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"),
}


def launcher(env: Mapping[str, str] = os.environ) -> str | None:
    """Name of the launcher that started this process as one of several, None if it is alone.

    >>> launcher({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}), launcher({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"})
    ('SLURM', None)
    """
    for name, (several, own) in _LAUNCHERS.items():
        count = env.get(several, "")
        alone = count in ("", "1") or (name == "Cloud TPU" and "," not in count)
        if own in env and not alone:
            return name
    return None


@dataclass(frozen=True)
class Job:
    """Several processes as one; a launcher that JAX knows (SLURM, Open MPI, Cloud TPU, Kubernetes) says it by itself.

    Attributes:
        coordinator: host:port of process 0, the same for all.
        num_processes: number of processes.
        process_id: number of this process.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def connect(job: Job) -> None:
    """Join the other processes, before anything is computed: as told, or as the launcher says, or not at all.

    Raises:
        ValueError: if only some of the three are given, or the number of the process is not below the number of them.
    """
    given = job.coordinator, job.num_processes, job.process_id
    if all(v is None for v in given):
        if launcher():
            jax.distributed.initialize()
        return
    if job.coordinator is None or job.num_processes is None or job.process_id is None:
        raise ValueError(
            "several processes need all of --coordinator host:port, --num-processes and --process-id, or none of them"
        )
    if not 0 <= job.process_id < job.num_processes:
        raise ValueError(f"--process-id lies between 0 and {job.num_processes - 1}, got {job.process_id}")
    jax.distributed.initialize(job.coordinator, job.num_processes, job.process_id)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What a library of collectives says on stdout goes to stderr: stdout is for data."""
    if jax.process_count() == 1:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def devices() -> str:
    """The devices of a run, in words."""
    kind, processes = jax.devices()[0], jax.process_count()
    where = f", process {jax.process_index()} of {processes}" if processes > 1 else ""
    return f"{jax.device_count()} x {kind.device_kind} ({kind.platform}){where}"


def agreed(values: list[int], mesh: Mesh) -> list[int]:
    """The values that process 0 has, in every process; each below 2^31."""
    if jax.process_count() == 1:
        return values
    own = np.zeros((jax.local_device_count(), len(values)), np.int32)
    if jax.process_index() == 0:
        own[0] = values
    axis = mesh.axis_names[0]
    everyones = jax.make_array_from_process_local_data(NamedSharding(mesh, P(axis)), own)
    add = jax.shard_map(lambda x: lax.psum(x, axis), mesh=mesh, in_specs=P(axis), out_specs=P(None))
    return np.asarray(jax.jit(add)(everyones))[0].tolist()
