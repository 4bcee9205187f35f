"""The programs that containers in memory can run: small, with the behaviour of busybox's applets of the same name."""

from __future__ import annotations

import asyncio
import ipaddress
import posixpath
import re
from collections.abc import Callable, Iterator

from portlayer.substrates.memory.files import View
from portlayer.substrates.memory.process import Process, Program

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TABLE: dict[str, Program] = {}

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "0": "\0", "a": "\a", "e": "\x1b"}
_MODES = {"file": "regular file", "dir": "directory", "symlink": "symbolic link", "device": "character special file"}


def applet(*names: str) -> Callable[[Program], Program]:
    """Enter a program in TABLE under *names*."""

    def enter(program: Program) -> Program:
        TABLE.update(dict.fromkeys(names, program))
        return program

    return enter


class CannotRun(Exception):
    """exit_code 127: not found; 126: not executable."""

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def find_program(view: View, name: str, env: dict[str, str], cwd: str = "/") -> Program:
    """The program called *name*, looked up in PATH as execvp does; raises CannotRun."""
    places = [posixpath.join(cwd, name)] if "/" in name else [f"{d}/{name}" for d in env.get("PATH", PATH).split(":")]
    problem = CannotRun(127, "No such file or directory" if "/" in name else "not found in $PATH")
    for place in places if name else ():
        try:
            node = view.find(place)
        except OSError:
            continue
        program = TABLE.get(posixpath.basename(place))
        if node.kind == "dir":
            problem = CannotRun(126, "Is a directory")
        elif node.kind != "file" or not node.mode & 0o111:
            problem = CannotRun(126, "Permission denied")
        elif program is None:
            problem = CannotRun(126, "Exec format error")
        else:
            return program
    raise problem


def unescape(text: str) -> str:
    """`\\n` and its like as printf and echo -e read them."""
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), text)


@applet("busybox")
async def _busybox(process: Process) -> int:
    process.args = process.args[1:]
    program = TABLE.get(process.args[0]) if process.args else None
    return await program(process) if program else 127


@applet("true", ":")
async def _true(_: Process) -> int:
    return 0


@applet("false")
async def _false(_: Process) -> int:
    return 1


@applet("echo")
async def _echo(process: Process) -> int:
    words = list(process.args[1:])
    options = ""
    while words and re.fullmatch("-[ne]+", words[0]):
        options += words.pop(0)
    text = " ".join(words)
    await process.say((unescape(text) if "e" in options else text) + ("" if "n" in options else "\n"))
    return 0


@applet("printf")
async def _printf(process: Process) -> int:
    template, *values = process.args[1:]
    pieces = re.split("(%[sd%])", template)
    taken = len([piece for piece in pieces if piece in {"%s", "%d"}])
    while True:
        used = iter(values)
        words = (_directive(piece, used) if piece.startswith("%") else unescape(piece) for piece in pieces)
        await process.say("".join(words))
        values = values[taken:]
        if not values or not taken:
            return 0


def _directive(piece: str, values: Iterator[str]) -> str:
    return next(values, "") if piece in {"%s", "%d"} else piece.replace("%%", "%")


@applet("sleep")
async def _sleep(process: Process) -> int:
    try:
        seconds = sum(float(word.removesuffix("s")) for word in process.args[1:])
    except ValueError:
        return await process.complain(f"invalid number '{process.args[1]}'")
    await asyncio.sleep(seconds)
    return 0


@applet("cat")
async def _cat(process: Process) -> int:
    status = 0
    for name in process.args[1:] or ("-",):
        if name == "-":
            while data := await process.read():
                await process.write(data)
            continue
        try:
            await process.write(process.machine.view.read(posixpath.join(process.cwd, name)))
        except OSError as error:
            status = await process.complain(f"can't open '{name}': {error.strerror}")
    return status


@applet("wc")
async def _wc(process: Process) -> int:
    """Only `wc -c` of stdin."""
    count = 0
    while data := await process.read():
        count += len(data)
    await process.say(f"{count}\n")
    return 0


@applet("seq")
async def _seq(process: Process) -> int:
    first, last = map(int, ("1", *process.args[1:])[-2:])
    for start in range(first, last + 1, 1000):
        await process.say("".join(f"{number}\n" for number in range(start, min(start + 1000, last + 1))))
        await asyncio.sleep(0)
    return 0


@applet("ls")
async def _ls(process: Process) -> int:
    for name in process.args[1:] or (".",):
        try:
            names = process.machine.view.names(posixpath.join(process.cwd, name))
        except NotADirectoryError:
            names = [name]
        except OSError as error:
            return await process.complain(f"{name}: {error.strerror}")
        await process.say("".join(f"{found}\n" for found in names))
    return 0


@applet("stat")
async def _stat(process: Process) -> int:
    """Only `stat -c FORMAT FILE...`, with %a %u %g %h %s %F %n."""
    if process.args[1:2] != ("-c",) or len(process.args) < 4:
        return await process.complain("only stat -c FORMAT FILE is offered here")
    for name in process.args[3:]:
        try:
            node = process.machine.view.find(posixpath.join(process.cwd, name), follow=False)
        except OSError as error:
            return await process.complain(f"can't stat '{name}': {error.strerror}")
        facts = {
            "%a": f"{node.mode:o}",
            "%u": str(node.uid),
            "%g": str(node.gid),
            "%h": str(node.links),
            "%s": str(len(node.data or node.target)),
            "%F": _MODES[node.kind],
            "%n": name,
        }
        await process.say("".join(facts.get(piece, piece) for piece in re.split("(%.)", process.args[2])) + "\n")
    return 0


@applet("readlink")
async def _readlink(process: Process) -> int:
    try:
        node = process.machine.view.find(posixpath.join(process.cwd, process.args[-1]), follow=False)
    except OSError:
        return 1
    await process.say(f"{node.target}\n" if node.target else "")
    return 0 if node.target else 1


@applet("test", "[")
async def _test(process: Process) -> int:
    """Only `-e`, `-f`, `-d` and the comparison of two words."""
    words = list(process.args[1:])
    if process.args[0] == "[" and (not words or words.pop() != "]"):
        await process.complain("missing ]")
        return 2
    match words:
        case [left, "=" | "!=" as operator, right]:
            return int((left == right) != (operator == "="))
        case ["-e" | "-f" | "-d" as wanted, name]:
            try:
                kind = process.machine.view.find(posixpath.join(process.cwd, name)).kind
            except OSError:
                return 1
            return 0 if wanted == "-e" or kind == {"-f": "file", "-d": "dir"}[wanted] else 1
    await process.complain("this test is not offered here")
    return 2


@applet("mkdir", "touch", "rm")
async def _change(process: Process) -> int:
    """One applet for what changes names; of options only `rm -r`, `rm -f` and `mkdir -p`."""
    view = process.machine.view
    name = process.args[0].rsplit("/", 1)[-1]
    options = "".join(word for word in process.args[1:] if word.startswith("-"))
    for word in (word for word in process.args[1:] if not word.startswith("-")):
        path = posixpath.join(process.cwd, word)
        try:
            if name == "mkdir":
                view.make_folder(path)
            elif name == "touch":
                view.write(path, b"", append=True)
            elif "r" in options or view.find(path, follow=False).kind != "dir":
                view.remove(path)
            else:
                return await process.complain(f"'{word}' is a directory")
        except (FileExistsError, FileNotFoundError) as error:
            if "p" not in options and "f" not in options:
                return await process.complain(f"{word}: {error.strerror}")
        except OSError as error:
            return await process.complain(f"{word}: {error.strerror}")
    return 0


@applet("pwd")
async def _pwd(process: Process) -> int:
    await process.say(f"{process.cwd}\n")
    return 0


@applet("hostname")
async def _hostname(process: Process) -> int:
    await process.say(f"{process.machine.spec.hostname}\n")
    return 0


@applet("env")
async def _env(process: Process) -> int:
    await process.say("".join(f"{name}={value}\n" for name, value in process.env.items()))
    return 0


@applet("id")
async def _id(process: Process) -> int:
    user, group = process.machine.user
    await process.say(
        {"-u": f"{user}\n", "-g": f"{group}\n"}.get("".join(process.args[1:]), f"uid={user} gid={group}\n")
    )
    return 0


@applet("stty")
async def _stty(process: Process) -> int:
    """Only `stty size`."""
    terminal = process.machine.terminal
    if terminal is None:
        return await process.complain("standard input: Not a tty")
    await process.say(f"{terminal.height} {terminal.width}\n")
    return 0


@applet("nslookup")
async def _nslookup(process: Process) -> int:
    """Only `nslookup NAME`, or an address."""
    machine, name = process.machine, process.args[-1]
    servers = [end.gateway for end in machine.links.values()]
    if not servers:
        await process.say(";; connection timed out; no servers could be reached\n\n")
        return 1
    await process.say(f"Server:\t\t{servers[0]}\nAddress:\t{servers[0]}:53\n\n")
    if _is_address(name):
        question = ipaddress.ip_address(name).reverse_pointer
        found = [f"{question}\tname = {found}" for found in [machine.resolver.name(machine, name)] if found]
    else:
        question = name
        found = [f"Name:\t{name}\nAddress: {found}" for found in machine.resolver.addresses(machine, name)]
    await process.say("\n".join(found or [f"** server can't find {question}: NXDOMAIN"]) + "\n\n")
    return 0 if found else 1
