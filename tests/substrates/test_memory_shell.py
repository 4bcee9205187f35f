"""The shell and the programs in memory do what busybox's do: the same scripts run on both."""

from __future__ import annotations

import asyncio
import subprocess

import builders
import images
import pytest
from conformance.substrate_bench import PATIENCE_SECONDS

from portlayer.model.interaction import STDOUT
from portlayer.model.names import new_id
from portlayer.substrates.memory.substrate import MemorySubstrate
from portlayer.substrates.memory.world import World

STDIN = b"hello big  world\nrest of it"


@pytest.mark.parametrize(
    "script",
    [
        "exit 300",
        "false; exit",
        "false || exit 5",
        "true && exit 6",
        "false && echo a || echo b",
        "true || echo a && echo b",
        "echo a;echo b&&echo c||echo d",
        "nosuch; echo $?",
        "/etc/passwd; echo $?; /etc; echo $?",
        "exec nosuch; echo no",
        "exec echo hi; echo no",
        "sh -c 'kill -9 $$'; echo $?",
        "sh -c 'sleep 0.2 & kill -9 $$'; echo $?",
        "kill -9 999999; echo $?",
        "trap 'echo caught' TERM; kill $$; echo after",
        "trap 'exit 4' TERM; kill $$; echo no",
        "trap '' TERM; kill $$; echo after",
        "trap 'echo usr' USR1; sh -c \"kill -USR1 $$\"; echo done",
        "trap 'echo got; exit 3' TERM; sleep 0.2 & kill $$; wait; echo no",
        "sleep 0.01 & wait; echo $?",
        "sh -c 'exit 7' & wait $!; echo $?",
        "sleep 100 & kill -9 $!; wait $!; echo $?",
        "sleep 100 & kill $!; wait $!; echo $?",
        "wait 99999; echo $?",
        "sleep x; echo $?",
        'read x; echo "[$x]" $?',
        "read a b; echo $a-$b; wc -c",
        "read a; read b; echo $b $?",
        "cat; echo; cat",
        "cat < /nosuch; echo $?",
        "cat /nosuch; echo $?",
        "echo x > /nosuch/x; echo $?",
        "echo x 2>/dev/null >&2; nosuch 2>/dev/null; echo $?",
        "cd /etc; pwd; cd /nosuch; echo $?",
        "[ -e /etc ] && echo y; [ -d /etc/passwd ] || echo n; test a = a && echo e; [ a != a ] || echo f",
        "seq 3; seq 2 5",
        "printf '%s-%d\\n' a 1 b 2; printf '100%%\\n'",
        "echo -n a; echo -e 'b\\tc'; echo 'd\\te'",
        "X=1; echo $X ${X}y \"$X z\" '$X'; echo [$Y]",
        "X='a  b'; echo $X; echo \"$X\"",
        "X=1; sh -c 'echo [$X]'; X=2 sh -c 'echo [$X]'",
        "echo a#b # comment",
        'echo "a\\$b\\"c" \\$d \'multi\nline\'',
        "while true; do echo once; exit 3; done",
        "while false; do echo never; done; echo $?",
        "stty size; echo $?",
    ],
)
async def test_a_script_does_what_it_does_in_busybox(script: str) -> None:
    real = await asyncio.to_thread(
        subprocess.run, [images.BUSYBOX, "sh", "-c", script], input=STDIN, capture_output=True, env={"PATH": "/bin"}
    )
    assert await in_memory(script) == (real.returncode, real.stdout)


@pytest.mark.parametrize("script", ["(echo a)", "if true; then echo a; fi", "echo `echo a`", "echo a | cat", "echo $("])
async def test_what_the_shell_does_not_offer_is_an_error(script: str) -> None:
    assert await in_memory(script) == (2, b"")


async def in_memory(script: str) -> tuple[int | None, bytes]:
    """Exit code and stdout of *script*, not as pid 1."""
    substrate = MemorySubstrate(World())
    ident, tar = builders.layer()
    await substrate.storage.put_layer(ident, images.stream(tar))
    spec = builders.container("sh", "-c", script, init=True, stdin=True)
    incarnation = new_id()
    await substrate.storage.make_rootfs(spec)
    await substrate.execution.prepare(spec, incarnation, {})
    await substrate.interaction.write_stdin(spec.id, incarnation, STDIN)
    await substrate.interaction.close_stdin(spec.id, incarnation)
    await substrate.execution.release(spec.id, incarnation)
    async with asyncio.timeout(PATIENCE_SECONDS):
        ended = await substrate.execution.wait(spec.id, incarnation)
    log = [chunk async for chunk in substrate.interaction.read_log(spec.id)]
    return ended.exit_code, b"".join(chunk.data for chunk in log if chunk.stream == STDOUT)
