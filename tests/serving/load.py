"""How much a gateway adds to a request, and whether it holds many at a time: `python -m tests.serving.load BUNDLE`.

A stub stands for the server of LoRAs, in a process of its own, as the gateway and the clients are. The overhead is the
difference of medians of requests that go straight to the stub and of those that go through, taken in turns. Beside it
stands the time that the gateway's process computed, which a busy machine stretches less.
"""

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter

import aiohttp
import psutil
from aiohttp import web

PROMPTS = (
    "What is 12 times 7?",
    "All rulers are vases. All vases are lamps. Is every ruler a lamp?",
    "Sort these words alphabetically: pear apple fig orange",
    "Which of these sentences has a positive feeling: I loved the film. I slept through it.",
)
CHAT = "/v1/chat/completions"


async def stub(request):
    body = await request.json()
    return web.json_response({"model": body["model"], "choices": [{"message": {"content": "x" * 200}}]})


def body(number, model):
    return {"model": model, "messages": [{"role": "user", "content": f"{PROMPTS[number % 4]} ({number})"}]}


async def asked(session, base, number, model):
    """Milliseconds of a request, and its status or what went wrong."""
    started = time.perf_counter()
    try:
        async with session.post(base + CHAT, json=body(number, model)) as answer:
            await answer.read()
            status = str(answer.status)
    except (aiohttp.ClientError, TimeoutError) as error:
        status = type(error).__name__
    return (time.perf_counter() - started) * 1000, status


def computed(process):
    """Milliseconds that a process has computed so far."""
    times = process.cpu_times()
    return (times.user + times.system) * 1000


async def one_by_one(session, process, ways, rounds):
    """Median milliseconds of each way, asked in turns, and what the gateway computed for each on average."""
    times = {name: [] for name in ways}
    own = dict.fromkeys(ways, 0.0)
    for number in range(rounds // 10):
        for name, (base, model) in ways.items():
            before = computed(process)  # in steps of 10 ms, hence not of each request
            for count in range(10):
                times[name].append((await asked(session, base, number * 10 + count, model))[0])
            own[name] += computed(process) - before
    return {name: (statistics.median(found), own[name] / len(found)) for name, found in times.items()}


async def at_a_time(session, base, model, many, total):
    """Requests a second, quantiles in milliseconds, and statuses, with so many at work at any time."""
    numbers, times, statuses = iter(range(total)), [], Counter()

    async def client():
        for number in numbers:
            took, status = await asked(session, base, number, model)
            times.append(took)
            statuses[status] += 1

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(many)))
    cuts = statistics.quantiles(times, n=100)
    return total / (time.perf_counter() - started), (cuts[49], cuts[98]), dict(statuses)


async def until_up(session, base):
    for _ in range(1200):
        try:
            async with session.get(base + "/health") as answer:
                if answer.status in (200, 404):
                    return
        except (aiohttp.ClientError, TimeoutError):
            await asyncio.sleep(0.1)
    raise SystemExit(f"{base} does not come up.")


async def measure(upstream, gateway, pid, options):
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=300))
    async with session:
        await until_up(session, upstream)
        await until_up(session, gateway)
        ways = {
            "straight": (upstream, options.adapter),
            "named": (gateway, options.adapter),
            "by topic": (gateway, "auto"),
        }
        process = psutil.Process(pid)
        await one_by_one(session, process, ways, 20)
        found = await one_by_one(session, process, ways, options.rounds)
        straight = found["straight"][0]
        for name, (took, own) in found.items():
            print(
                f"{name:>10}: {took:7.2f} ms at the median, {took - straight:+6.2f}; the gateway computed {own:.2f} ms"
            )
        for name, (base, model) in ways.items():
            rate, (half, most), statuses = await at_a_time(session, base, model, options.many, options.total)
            print(
                f"{name:>10}: {options.many} at a time: {rate:7.0f}/s, p50 {half:.0f} ms, p99 {most:.0f} ms, {statuses}"
            )


def free_port():
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("--adapter", default="mean")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--total", type=int, default=2000)
    parser.add_argument("--stub", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub:
        app = web.Application()
        app.router.add_post(CHAT, stub)
        web.run_app(app, host="127.0.0.1", port=options.stub, print=None, access_log=None)
        return
    ports = free_port(), free_port()
    upstream, gateway = (f"http://127.0.0.1:{port}" for port in ports)
    serve = [sys.executable, "-m", "topiclora_cli", "serve", options.bundle, "--upstream", upstream]
    processes = [
        subprocess.Popen([sys.executable, "-m", "tests.serving.load", "-", "--stub", str(ports[0])]),
        subprocess.Popen([*serve, "--port", str(ports[1])]),
    ]
    try:
        asyncio.run(measure(upstream, gateway, processes[1].pid, options))
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
