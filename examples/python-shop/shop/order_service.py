"""Orders: stored, then announced. Nothing tells this service what became of them."""

from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, Header, HTTPException, Query
from pydantic import BaseModel
from sqlalchemy import BigInteger, DateTime, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from shop import broker
from shop.database import Base, create_tables, session

Database = Annotated[AsyncSession, Depends(session)]


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(index=True)
    product_id: Mapped[int] = mapped_column(BigInteger)
    quantity: Mapped[int]
    status: Mapped[str] = mapped_column(default="pending")
    placed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Accepted(BaseModel):
    order_id: UUID
    status: str


class OrderView(Accepted):
    product_id: int
    quantity: int
    reason: str | None = None
    placed_at: datetime


@asynccontextmanager
async def lifespan(app: FastAPI):
    await create_tables()
    connection, channel = await broker.connect()
    app.state.exchange, _ = await broker.declare(channel)
    async with connection:
        yield


app = FastAPI(title="order-service", lifespan=lifespan)


@app.post("/orders/", status_code=202)
async def place(
    product_id: Annotated[int, Query(ge=1)],
    x_user_id: Annotated[UUID, Header()],
    database: Database,
    quantity: Annotated[int, Query(ge=1, le=1000)] = 1,
) -> Accepted:
    order = Order(user_id=x_user_id, product_id=product_id, quantity=quantity)
    database.add(order)
    await database.commit()
    # A crash here, or a broker that is away, and the order is never announced.
    event = {"order_id": str(order.id), "product_id": product_id, "quantity": quantity}
    await broker.publish(app.state.exchange, broker.ORDER_PLACED, event)
    return Accepted(order_id=order.id, status=order.status)


@app.get("/orders/{order_id}")
async def read(order_id: UUID, x_user_id: Annotated[UUID, Header()], database: Database) -> OrderView:
    order = await database.get(Order, order_id)
    if order is None or order.user_id != x_user_id:
        raise HTTPException(404, "there is no such order")
    return OrderView(
        order_id=order.id,
        product_id=order.product_id,
        quantity=order.quantity,
        status=order.status,
        placed_at=order.placed_at,
    )
