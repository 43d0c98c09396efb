//! Tables of exchanges: a tap that writes Parquet has a row for each query and each response of the same load that its
//! dnstap file has, with the same hidden addresses. What is in the columns: `tests/contrib/parquet.py`.

use std::{collections::BTreeSet, fs::File, path::Path};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};

use super::{note, trial};
use crate::{
    environment::{Combination, combinations},
    lab::{Lab, Wanted},
    load::mixed,
    tap::Tap,
};

pub(super) fn trials() -> Vec<Trial> {
    let name = "a table has the messages of the file beside it, each query with its response";
    let first = combinations().into_iter().take(1);
    first
        .map(|how| trial(format!("{how}: {name}"), move || table_is_the_file(&how)))
        .collect()
}

fn table_is_the_file(how: &Combination) -> Result<()> {
    let mut lab = Lab::start(Wanted {
        upstream: true,
        ..Wanted::default()
    })?;
    let path = lab.folder().join("tap.parquet");
    let output = format!("parquet:{}", path.display());
    let options = ["-o", &output, "--anonymise", "truncate:8,16"];
    let tap = Tap::attach(lab.folder(), lab.tapped.pid(), how, &options)?;
    mixed::run(&mut lab)?;
    ensure!(!path.exists(), "the name is there before the end");
    let tapped = tap.stop()?;
    let records = tapped.records()?;
    let (responses, queries): (Vec<_>, Vec<_>) =
        records.iter().partition(|record| record.is_response());
    let rows = rows(&path)?;
    let having = |column| {
        rows.iter()
            .filter(|row| value(row, column).is_some())
            .count()
    };
    ensure!(
        (having("dns_req_len"), having("dns_res_len")) == (queries.len(), responses.len()),
        "{} rows with a query and {} with a response, but {} queries and {} responses",
        having("dns_req_len"),
        having("dns_res_len"),
        queries.len(),
        responses.len()
    );
    let both = queries.len() + responses.len() - rows.len();
    ensure!(
        both * 100 > 95 * responses.len(),
        "{both} exchanges of {} responses",
        responses.len()
    );
    let served = rows
        .iter()
        .filter(|row| value(row, "dnstap_type").as_deref() == Some("CLIENT"));
    let clients: BTreeSet<_> = served.filter_map(|row| value(row, "ip_src")).collect();
    let hidden = BTreeSet::from(["127.0.0.0".to_owned(), "::".to_owned()]);
    ensure!(
        clients.is_subset(&hidden) && !clients.is_empty(),
        "clients {clients:?}"
    );
    let rows = rows.len();
    note(format!(
        "{how}: {rows} rows, {both} of them with query and response"
    ));
    Ok(())
}

fn rows(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let reader = SerializedFileReader::new(file)?;
    Ok(reader.get_row_iter(None)?.collect::<Result<_, _>>()?)
}

/// Returns the value of a column as text, unless it is null.
fn value(row: &Row, column: &str) -> Option<String> {
    let (_, field) = row.get_column_iter().find(|(name, _)| *name == column)?;
    match field {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
