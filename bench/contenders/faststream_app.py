"""FastStream, as its documentation begins: a subscriber that publishes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from common import DURABLE, PREFETCH, QUEUE, SECONDS, TASK, URL, WORKERS, answer
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

broker = RabbitBroker(URL, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
app = FastStream(broker, logger=None)
kind = QueueType.QUORUM if DURABLE else QueueType.CLASSIC
queue = RabbitQueue(QUEUE, kind, durable=DURABLE)

if TASK in ("echo", "async"):

    @broker.subscriber(queue)
    async def on_message(body: bytes) -> None:
        if SECONDS:
            await asyncio.sleep(SECONDS)
        reply_queue, reply = answer(body)
        await broker.publish(reply, reply_queue, expiration=1)

else:  # what blocks belongs on a thread

    @app.on_startup
    async def make_threads() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS))

    @broker.subscriber(queue)
    async def on_message(body: bytes) -> None:
        reply_queue, reply = await asyncio.to_thread(answer, body)
        await broker.publish(reply, reply_queue, expiration=1)


asyncio.run(app.run())
