"""The catalogue, over gRPC: what the shop sells, and for how much."""

import asyncio

import grpc
from sqlalchemy import func, select
from sqlalchemy.orm import Mapped, mapped_column

from shop import catalog_pb2, catalog_pb2_grpc
from shop.database import Base, Session, create_tables


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price_cents: Mapped[int]

    def message(self) -> catalog_pb2.Product:
        return catalog_pb2.Product(id=self.id, name=self.name, price_cents=self.price_cents)


class Catalog(catalog_pb2_grpc.CatalogServicer):
    async def GetProduct(self, request, context):
        async with Session() as session:
            product = await session.get(Product, request.id)
        if product is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no product {request.id}")
        return product.message()

    async def ListProducts(self, request, context):
        size = request.page_size or 50
        query = select(Product).where(Product.id > request.after_id).order_by(Product.id).limit(size + 1)
        async with Session() as session:
            products = (await session.scalars(query)).all()
        page = [product.message() for product in products[:size]]
        following = page[-1].id if len(products) > size else 0
        return catalog_pb2.ListProductsResponse(products=page, next_after_id=following)


async def seed() -> None:
    async with Session() as session:
        if await session.scalar(select(func.count()).select_from(Product)):
            return
        for id in range(1, 101):
            session.add(Product(id=id, name=f"Product {id}", price_cents=100 + id * 37 % 9900))
        await session.commit()


async def main() -> None:
    await create_tables()
    await seed()
    server = grpc.aio.server()
    catalog_pb2_grpc.add_CatalogServicer_to_server(Catalog(), server)
    server.add_insecure_port("0.0.0.0:50051")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
