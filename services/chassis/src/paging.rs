//! Paging of lists: `?limit=&after=`, where `after` is the last id of the page before.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::problem::Problem;

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 100;

/// What a client asks for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// How many items at most.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<u32>,
    /// Items after the one with this id; from the beginning without it.
    pub after: Option<Uuid>,
}

/// What it gets.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// At most as many as asked for.
    pub items: Vec<T>,
    /// The `after` of the next page; null on the last one.
    #[schema(required)]
    pub next: Option<Uuid>,
}

impl PageQuery {
    /// How many rows to fetch: one more than a page holds, from which [`Page::cut`] knows whether there are more.
    ///
    /// # Errors
    /// 422 when `limit` is not from 1 to 100.
    pub fn rows(&self) -> Result<i64, Problem> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(i64::from(limit) + 1),
            limit => Err(Problem::invalid(format!(
                "limit is a number from 1 to {MAX_LIMIT}, not {limit}"
            ))),
        }
    }
}

impl<T> Page<T> {
    /// A page from the rows that [`PageQuery::rows`] asked for.
    pub fn cut(mut items: Vec<T>, rows: i64, id: impl Fn(&T) -> Uuid) -> Self {
        let more = items.len() as i64 == rows;
        if more {
            items.pop();
        }
        let next = if more { items.last().map(id) } else { None };
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_additional_row_becomes_a_next_page() {
        let ids: Vec<_> = (1..=3).map(Uuid::from_u128).collect();
        let page = Page::cut(ids.clone(), 3, |id| *id);
        assert_eq!((page.items.len(), page.next), (2, Some(ids[1])));
        let last = Page::cut(ids[..2].to_vec(), 3, |id| *id);
        assert_eq!((last.items.len(), last.next), (2, None));
    }

    #[test]
    fn the_document_has_the_bounds_that_are_checked() {
        let parameters = PageQuery::into_params(|| None);
        let limit = serde_json::to_value(&parameters[0]).unwrap();
        let schema = &limit["schema"];
        assert_eq!(schema["minimum"], 1);
        assert_eq!(schema["maximum"], MAX_LIMIT);
        assert_eq!(schema["default"], DEFAULT_LIMIT);
    }

    #[test]
    fn a_limit_is_bounded() {
        for (limit, rows) in [
            (None, Some(51)),
            (Some(1), Some(2)),
            (Some(0), None),
            (Some(101), None),
        ] {
            assert_eq!(PageQuery { limit, after: None }.rows().ok(), rows);
        }
    }
}
