"""aio-pika, as in the tutorials of its documentation: aio_pika_app.py confirms|no-confirms."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

import aio_pika
import aio_pika.abc
from common import ARGUMENTS, DURABLE, PREFETCH, QUEUE, SECONDS, TASK, URL, WORKERS, answer


async def main() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS))
    connection = await aio_pika.connect_robust(URL)
    async with connection:
        channel = await connection.channel(publisher_confirms=sys.argv[1] == "confirms")
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(QUEUE, durable=DURABLE, arguments=ARGUMENTS)

        async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                if TASK in ("echo", "async"):
                    if SECONDS:
                        await asyncio.sleep(SECONDS)
                    reply_queue, reply = answer(message.body)
                else:  # what blocks belongs on a thread
                    reply_queue, reply = await asyncio.to_thread(answer, message.body)
                await channel.default_exchange.publish(
                    aio_pika.Message(reply, expiration=1), routing_key=reply_queue
                )

        await queue.consume(on_message)
        await asyncio.Future()


asyncio.run(main())
