"""Stock: each order that is announced takes its pieces."""

import json
from contextlib import asynccontextmanager

from aio_pika.abc import AbstractIncomingMessage
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import BigInteger, CheckConstraint, func, select, update
from sqlalchemy.orm import Mapped, mapped_column

from shop import broker
from shop.database import Base, Session, create_tables


class Stock(Base):
    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("available >= 0"),)
    product_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    available: Mapped[int] = mapped_column(BigInteger)
    reserved: Mapped[int] = mapped_column(BigInteger, default=0)


class StockView(BaseModel):
    product_id: int
    available: int
    reserved: int


async def seed() -> None:
    async with Session() as session:
        if await session.scalar(select(func.count()).select_from(Stock)):
            return
        for id in range(1, 101):
            session.add(Stock(product_id=id, available=1_000_000))
        await session.commit()


async def on_order(message: AbstractIncomingMessage) -> None:
    # Any exception, and the message is a dead letter; a second delivery takes the stock a second time.
    async with message.process(requeue=False), Session() as session:
        event = json.loads(message.body)
        taken = await session.execute(
            update(Stock)
            .where(Stock.product_id == event["product_id"])
            .values(available=Stock.available - event["quantity"], reserved=Stock.reserved + event["quantity"])
        )
        if taken.rowcount == 0:
            raise LookupError(f"there is no product {event['product_id']}")
        await session.commit()


@asynccontextmanager
async def lifespan(app: FastAPI):
    await create_tables()
    await seed()
    connection, channel = await broker.connect()
    await channel.set_qos(prefetch_count=10)
    _, queue = await broker.declare(channel)
    await queue.consume(on_order)
    async with connection:
        yield


app = FastAPI(title="inventory-service", lifespan=lifespan)


@app.get("/inventory/{product_id}")
async def read(product_id: int) -> StockView:
    async with Session() as session:
        stock = await session.get(Stock, product_id)
    if stock is None:
        raise HTTPException(404, "there is no such product")
    return StockView(product_id=stock.product_id, available=stock.available, reserved=stock.reserved)
