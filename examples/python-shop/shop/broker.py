"""RabbitMQ: one exchange, one queue, one dead-letter queue."""

import json
import os

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue, AbstractRobustConnection

ORDER_EVENTS = "order_events"
ORDER_PLACED = "order.placed"


async def connect() -> tuple[AbstractRobustConnection, AbstractChannel]:
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    return connection, await connection.channel()


async def declare(channel: AbstractChannel) -> tuple[AbstractExchange, AbstractQueue]:
    """The exchange and the queue behind it; whatever a consumer rejects goes to the dead-letter queue."""
    exchange = await channel.declare_exchange(ORDER_EVENTS, aio_pika.ExchangeType.TOPIC, durable=True)
    dead = f"{ORDER_EVENTS}.dead"
    await channel.declare_queue(dead, durable=True)
    queue = await channel.declare_queue(
        ORDER_EVENTS,
        durable=True,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead},
    )
    await queue.bind(exchange, "order.*")
    return exchange, queue


async def publish(exchange: AbstractExchange, routing_key: str, event: dict) -> None:
    message = aio_pika.Message(
        json.dumps(event).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    await exchange.publish(message, routing_key)
