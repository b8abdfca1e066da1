//! The OpenAPI schemas of ids and quantities: the bounds that are checked where they are made.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::ids::{OrderId, ProductId, Quantity, UserId};

fn object(kind: Type, format: KnownFormat, description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(kind)
        .format(Some(SchemaFormat::KnownFormat(format)))
        .description(Some(description))
}

fn schema(object: ObjectBuilder) -> RefOr<Schema> {
    RefOr::T(Schema::Object(object.build()))
}

impl PartialSchema for OrderId {
    fn schema() -> RefOr<Schema> {
        schema(object(Type::String, KnownFormat::Uuid, "An order."))
    }
}

impl PartialSchema for UserId {
    fn schema() -> RefOr<Schema> {
        schema(object(
            Type::String,
            KnownFormat::Uuid,
            "A user of the shop.",
        ))
    }
}

impl PartialSchema for ProductId {
    fn schema() -> RefOr<Schema> {
        let number = object(
            Type::Integer,
            KnownFormat::Int64,
            "A product of the catalogue.",
        );
        schema(number.minimum(Some(1)).maximum(Some(i64::MAX)))
    }
}

impl PartialSchema for Quantity {
    fn schema() -> RefOr<Schema> {
        let number = object(Type::Integer, KnownFormat::Int32, "How many pieces.");
        schema(number.minimum(Some(1)).maximum(Some(Self::MAX)))
    }
}

impl ToSchema for OrderId {
    fn name() -> Cow<'static, str> {
        "OrderId".into()
    }
}

impl ToSchema for UserId {
    fn name() -> Cow<'static, str> {
        "UserId".into()
    }
}

impl ToSchema for ProductId {
    fn name() -> Cow<'static, str> {
        "ProductId".into()
    }
}

impl ToSchema for Quantity {
    fn name() -> Cow<'static, str> {
        "Quantity".into()
    }
}
