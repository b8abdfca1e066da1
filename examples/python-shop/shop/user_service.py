"""Accounts, tokens, purchases; also the auth service behind the gateway's ForwardAuth."""

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

import bcrypt
import grpc
import jwt
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, EmailStr, Field
from sqlalchemy import DateTime, ForeignKey, String, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from shop import catalog_pb2, catalog_pb2_grpc
from shop.database import Base, create_tables, session

SECRET = os.environ["JWT_SECRET"]
ALGORITHM = "HS256"
TOKEN_LIFETIME = timedelta(hours=1)

Database = Annotated[AsyncSession, Depends(session)]


class User(Base):
    __tablename__ = "users"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    name: Mapped[str] = mapped_column(String(100))
    email: Mapped[str] = mapped_column(String(254), unique=True)
    password_hash: Mapped[str]


class Purchase(Base):
    __tablename__ = "purchases"
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    product_id: Mapped[int]
    product_name: Mapped[str]
    quantity: Mapped[int]
    unit_price_cents: Mapped[int]
    purchased_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class SignUp(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    email: EmailStr
    password: str = Field(min_length=7, max_length=72)


class LogIn(BaseModel):
    email: EmailStr
    password: str


class Token(BaseModel):
    access_token: str
    token_type: str = "Bearer"
    expires_in: int = int(TOKEN_LIFETIME.total_seconds())


class PublicUser(BaseModel):
    id: UUID
    name: str


class OwnUser(PublicUser):
    email: str


class UserPage(BaseModel):
    items: list[PublicUser]
    next: UUID | None


class CreatePurchase(BaseModel):
    product_id: int = Field(ge=1)
    quantity: int = Field(ge=1, le=1000)


class CreatedPurchase(CreatePurchase):
    id: UUID
    product_name: str
    unit_price_cents: int
    total_cents: int
    purchased_at: datetime


@asynccontextmanager
async def lifespan(app: FastAPI):
    await create_tables()
    async with grpc.aio.insecure_channel(os.environ["PRODUCT_SERVICE"]) as channel:
        app.state.catalog = catalog_pb2_grpc.CatalogStub(channel)
        yield


app = FastAPI(title="user-service", lifespan=lifespan)


@app.post("/auth/signup", status_code=201)
async def sign_up(account: SignUp, database: Database) -> OwnUser:
    hashed = await run_in_threadpool(bcrypt.hashpw, account.password.encode(), bcrypt.gensalt())
    user = User(name=account.name, email=account.email.lower(), password_hash=hashed.decode())
    database.add(user)
    try:
        await database.commit()
    except IntegrityError:
        raise HTTPException(409, "this e-mail address is taken")
    return OwnUser(id=user.id, name=user.name, email=user.email)


@app.post("/auth/login")
async def log_in(credentials: LogIn, database: Database) -> Token:
    user = await database.scalar(select(User).where(User.email == credentials.email.lower()))
    if user is None or not await run_in_threadpool(
        bcrypt.checkpw, credentials.password.encode(), user.password_hash.encode()
    ):
        raise HTTPException(401, "wrong e-mail address or password")
    claims = {"sub": str(user.id), "email": user.email, "exp": datetime.now(UTC) + TOKEN_LIFETIME}
    return Token(access_token=jwt.encode(claims, SECRET, ALGORITHM))


@app.get("/auth/verify")
async def verify(response: Response, authorization: Annotated[str, Header()] = "") -> None:
    """What the gateway asks before each protected request."""
    try:
        claims = jwt.decode(authorization.removeprefix("Bearer "), SECRET, [ALGORITHM])
    except jwt.InvalidTokenError:
        raise HTTPException(401, "no valid token", {"WWW-Authenticate": "Bearer"})
    response.headers["X-User-Id"] = claims["sub"]
    response.headers["X-User-Email"] = claims["email"]


@app.get("/users/")
async def list_users(
    database: Database, after: UUID | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 50
) -> UserPage:
    query = select(User).order_by(User.id).limit(limit + 1)
    if after is not None:
        query = query.where(User.id > after)
    users = (await database.scalars(query)).all()
    items = [PublicUser(id=user.id, name=user.name) for user in users[:limit]]
    return UserPage(items=items, next=items[-1].id if len(users) > limit else None)


@app.post("/users/{user_id}/purchases", status_code=201)
async def buy(
    user_id: UUID, purchase: CreatePurchase, x_user_id: Annotated[UUID, Header()], database: Database
) -> CreatedPurchase:
    if user_id != x_user_id:
        raise HTTPException(403, "not your account")
    try:
        product = await app.state.catalog.GetProduct(catalog_pb2.GetProductRequest(id=purchase.product_id))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise HTTPException(404, "there is no such product")
        raise
    made = Purchase(
        user_id=user_id,
        product_id=product.id,
        product_name=product.name,
        quantity=purchase.quantity,
        unit_price_cents=product.price_cents,
    )
    database.add(made)
    await database.commit()
    await database.refresh(made)
    return CreatedPurchase(
        id=made.id,
        product_id=made.product_id,
        product_name=made.product_name,
        quantity=made.quantity,
        unit_price_cents=made.unit_price_cents,
        total_cents=made.unit_price_cents * made.quantity,
        purchased_at=made.purchased_at,
    )
