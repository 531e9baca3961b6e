//! An extract: what an endpoint tells of a stretch of time, or what a table has, goes into its raw table, all of it in
//! one transaction, in the place of what an attempt before brought of the same stretch. Nothing is written before the
//! last row is there.

use std::sync::Arc;

use tokio::sync::watch;

use super::databases::{Rates, TableReading};
use super::drain::DAY;
use super::extracted::{Ground, suit};
use super::loads;
use crate::capture::api::{Api, Paces};
use crate::capture::bounds::{Bound, Bounds};
use crate::capture::pages::{Answered, Pages};
use crate::decode::{Documents, Wanted, read_answer};
use crate::error::{Error, Kind, Result};
use crate::merge::{Extract, Gathered, Templates};
use crate::names::TableName;
use crate::postgres::Session;
use crate::progress::extracts::{self, Brought, Portion};
use crate::progress::schemas;
use crate::relation::Relation;
use crate::schedule::{About, Bringing, Brings, Hands};
use crate::serve::Board;
use crate::spec::{Asked, By, Condition, Http, HttpEndpoint, JsonPath, Model, Spec};
use crate::warehouse::Fenced;

/// Brings what the files say of sources without a stream.
pub(super) struct Bringer {
    pub(super) files: watch::Receiver<Arc<Spec>>,
    pub(super) paces: Paces,
    pub(super) rates: Rates,
    /// where limits are counted
    pub(super) board: Board,
    pub(super) templates: Templates,
    pub(super) no_ddl: bool,
}

impl Brings for Bringer {
    fn brings(&self, table: &TableName) -> bool {
        let spec = self.files.borrow();
        spec.models.iter().any(|model| model.table == *table && spec.is_extracted(model))
    }

    fn extract<'a>(
        &'a self,
        session: &'a mut Session,
        hands: &'a Hands,
        (raw, condition): (&'a TableName, Option<&'a Condition>),
        about: &'a About,
    ) -> Bringing<'a> {
        Box::pin(async move {
            let spec = self.files.borrow().clone();
            let (raw, asked) = feeding(&spec, raw)?;
            suit(session, raw, &self.ground(&spec, hands)).await?;
            let (gathered, came) = match asked {
                Asked::Http(http) => self.pages(session, hands, (raw, http), about).await?,
                Asked::Database(database) => {
                    let fill = |variable| about.variable(variable);
                    let reading = TableReading {
                        spec: &spec,
                        database,
                        raw,
                        condition: condition.map(|condition| condition.filled(fill)),
                        rates: &self.rates,
                        bounds: self.bounds(&database.name),
                    };
                    let (gathered, relation) = reading.all(session).await?;
                    let shape = Some((database.name.as_str(), relation));
                    (gathered, Came { pages: 1, shape, whole: condition.is_none() })
                }
            };
            keep(session, hands, (raw, about), (&gathered, came)).await
        })
    }

    fn load<'a>(
        &'a self,
        session: &'a mut Session,
        hands: &'a Hands,
        table: &'a TableName,
        about: &'a About,
    ) -> Bringing<'a> {
        Box::pin(async move {
            let spec = self.files.borrow().clone();
            let (model, asked) = feeding(&spec, table)?;
            suit(session, model, &self.ground(&spec, hands)).await?;
            let load = loads::Load {
                spec: &spec,
                model,
                asked,
                templates: &self.templates,
                no_ddl: self.no_ddl,
            };
            load.run(session, hands, &portion(about)).await
        })
    }
}

impl Bringer {
    /// Reads all pages of an endpoint.
    async fn pages<'c>(
        &self,
        session: &mut Session,
        hands: &Hands,
        (raw, http): (&Model, &Http),
        about: &About,
    ) -> Result<(Gathered, Came<'c>)> {
        let endpoint = endpoint_of(http, raw)?;
        let (http_of, bounds) = (Arc::new(http.clone()), self.bounds(&http.name));
        let api = Api::new(http_of, self.paces.clone(), hands.clock.clone(), bounds.clone())?;
        let reading = Reading { api, http, endpoint, about, bounds };
        let (mut gathered, pages) = reading.all(session).await?;
        let twice = gathered.settle(session).await?;
        if twice > 0 {
            let from = &raw.from;
            tracing::info!(%from, twice, "rows that moved while they were read came twice; the last counts");
        }
        Ok((gathered, Came { pages, shape: None, whole: false }))
    }

    /// Counts the limits that a connector's extracts come to.
    fn bounds(&self, connector: &str) -> Bounds {
        let (board, connector) = (self.board.clone(), connector.to_owned());
        Bounds::new(move |bound| match bound {
            Bound::Reached(limit) => board.extract_reached(&connector, limit),
            Bound::Waited(wait) => board.extract_waited(&connector, wait),
        })
    }

    fn ground<'g>(&self, spec: &'g Spec, hands: &'g Hands) -> Ground<'g> {
        Ground {
            fence: &hands.fence,
            durations: &hands.durations,
            readers: &spec.settings.readers,
            no_ddl: self.no_ddl,
            today: hands.clock.now_postgres().div_euclid(DAY),
        }
    }
}

/// A table's declaration, and what feeds it.
fn feeding<'s>(spec: &'s Spec, table: &TableName) -> Result<(&'s Model, Asked<'s>)> {
    let model = spec.models.iter().find(|model| model.table == *table);
    let fed = model.and_then(|model| Some((model, spec.asked(&model.from.source)?)));
    fed.ok_or_else(|| {
        let what = format!("no file declares {table} any more, or nothing is extracted for it");
        Error::new(Kind::Config, what).remedy("put it back, or remove the task")
    })
}

/// An endpoint by what is fed by it.
pub(super) fn endpoint_of<'s>(http: &'s Http, model: &Model) -> Result<&'s HttpEndpoint> {
    http.endpoint(&model.from.table.name).ok_or_else(|| {
        let what = format!("{} has no endpoint that feeds {}", http.file, model.table);
        Error::new(Kind::Config, what).remedy("put it back, or remove the task")
    })
}

/// How rows came.
struct Came<'c> {
    pages: i64,
    /// the connector and the shape of rows of a table
    shape: Option<(&'c str, Relation)>,
    /// whether they are all rows that there are
    whole: bool,
}

/// What a stretch of time is called.
pub(super) fn portion(about: &About) -> Portion {
    Portion { load_id: about.load_id.clone(), start: about.start, end: about.end }
}

/// An endpoint that is read.
struct Reading<'r> {
    api: Api,
    http: &'r Http,
    endpoint: &'r HttpEndpoint,
    about: &'r About,
    bounds: Bounds,
}

impl Reading<'_> {
    /// Reads all pages; the rows, and how many pages they came in.
    async fn all(&self, session: &mut Session) -> Result<(Gathered, i64)> {
        let HttpEndpoint { path, params, page, .. } = self.endpoint;
        let fill = |variable| self.about.variable(variable);
        let params: Vec<(String, String)> =
            params.iter().map(|(name, value)| (name.clone(), value.filled(fill))).collect();
        let base = self.api.url(&path.filled(fill), &params)?;
        let mut gathered = Gathered::begin(session).await?;
        let mut pages = Pages::new(page.as_ref(), base.clone());
        while let Some(url) = pages.wanted().cloned() {
            let number = pages.number();
            let place = format!("{}, page {number}", shown(&base));
            if number > u64::try_from(self.http.limits.pages).unwrap_or(u64::MAX) {
                let what = format!("{place} is more than limits.pages allows");
                return Err(self.beyond("limits.pages", what));
            }
            let got = self.api.get(&url, &place).await?;
            let answered = self.take(&got.body, &place, &mut gathered)?;
            gathered.page(session).await?;
            let by_header =
                matches!(page.as_ref().map(|page| &page.by), Some(By::Link { next: None }));
            let next = if by_header { got.next } else { answered.next };
            let answered = Answered { next, ..answered };
            pages.take(&answered).map_err(|why| self.mended(format!("{place} {why}")))?;
            if pages.rows() > u64::try_from(self.http.limits.rows).unwrap_or(u64::MAX) {
                let what = format!("{place}: that is more rows than limits.rows allows");
                return Err(self.beyond("limits.rows", what));
            }
        }
        Ok((gathered, i64::try_from(pages.number() - 1).unwrap_or(i64::MAX)))
    }

    /// Takes the rows of an answer.
    fn take(&self, body: &[u8], place: &str, gathered: &mut Gathered) -> Result<Answered> {
        let (next, total) = told(self.endpoint);
        let wanted = Wanted { records: &self.endpoint.records, next, total };
        let answer =
            read_answer(body, &wanted).map_err(|why| self.mended(format!("{place} {why}")))?;
        let mut documents = Documents::default();
        for (number, record) in (1..).zip(&answer.records) {
            documents
                .write(record, &self.endpoint.key)
                .map_err(|why| self.mended(format!("{place}: row {number} {why}")))?;
            gathered.push(&documents.key, &documents.after);
        }
        let rows = u64::try_from(answer.records.len()).unwrap_or(u64::MAX);
        Ok(Answered { rows, digest: answer.digest, next: answer.next, total: answer.total })
    }

    fn mended(&self, what: String) -> Error {
        let remedy = format!("see endpoints.{} in {}", self.endpoint.name, self.http.file);
        Error::new(Kind::Config, what).remedy(remedy)
    }

    fn beyond(&self, limit: &'static str, what: String) -> Error {
        self.bounds.reached(limit);
        let remedy = format!("ask for less at once, or raise it in {}", self.http.file);
        Error::new(Kind::Config, what).remedy(remedy)
    }
}

/// Where an answer says what the next page is, and how many rows there are.
fn told(endpoint: &HttpEndpoint) -> (Option<&JsonPath>, Option<&JsonPath>) {
    match endpoint.page.as_ref().map(|page| &page.by) {
        Some(By::Offset { total, .. } | By::Page { total, .. }) => (None, total.as_ref()),
        Some(By::Cursor { next, .. }) => (Some(next), None),
        Some(By::Link { next }) => (next.as_ref(), None),
        None => (None, None),
    }
}

/// A URL without what is asked for: a secret may be in it.
fn shown(url: &reqwest::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

/// Puts the rows that were gathered into the raw table; how many there are.
async fn keep(
    session: &mut Session,
    hands: &Hands,
    (raw, about): (&Model, &About),
    (gathered, came): (&Gathered, Came<'_>),
) -> Result<u64> {
    let portion = portion(about);
    let transaction = Fenced::begin(session, &hands.fence, "extract", &hands.durations).await?;
    extracts::lock_table(&transaction, &raw.table).await?;
    let before = extracts::brought(&*transaction, &raw.table, &portion.load_id).await?;
    let revision = before.map_or(0, |before| before.revision + 1);
    // a later stretch is newer, and the same one has the same order
    let seq = portion.end.as_microsecond();
    let Came { pages, shape, whole } = came;
    let schema = match &shape {
        Some((connector, relation)) => {
            Some(schemas::number(&*transaction, connector, relation).await?)
        }
        None => None,
    };
    let extract = Extract { load_id: &portion.load_id, seq, as_of: portion.end, revision, schema };
    let replaced = gathered.replace(&transaction, raw, &extract).await?;
    // one that finds what was there is none
    let revision = match before {
        Some(before) if replaced.written == 0 && replaced.removed == 0 => before.revision,
        _ => revision,
    };
    let brought = Brought { revision, rows: replaced.rows, pages, schema, whole };
    extracts::note_extract(&transaction, &raw.table, &portion, brought).await?;
    transaction.commit().await?;
    let (table, written, removed) = (&raw.table, replaced.written, replaced.removed);
    tracing::info!(%table, load_id = portion.load_id, rows = replaced.rows, written, removed, pages, "extracted");
    Ok(u64::try_from(replaced.rows).unwrap_or(0))
}
