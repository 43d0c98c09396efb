//! The bytes of a Parquet file: row groups, which can be anywhere in a file, and the footer that lists them.
//!
//! A footer is written behind each row group, so a file can be read after each of them. The next row group overwrites
//! it (`sinks/file/output_file.rs`).

use std::{fmt, mem, sync::Arc};

use parquet::{
    errors::Result,
    file::{
        metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataWriter, RowGroupMetaData},
        properties::WriterPropertiesPtr,
    },
    schema::types::{SchemaDescriptor, TypePtr},
};

/// First bytes of a file.
pub(crate) const HEAD: &[u8] = b"PAR1";

/// Its length as the metadata have it.
const HEAD_LENGTH: i64 = 4;

/// A row group, encoded as if it were the first of a file.
pub(crate) struct Group {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    pub(super) metadata: RowGroupMetaData,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.metadata.num_rows();
        f.debug_struct("Group")
            .field("rows", &rows)
            .finish_non_exhaustive()
    }
}

/// The row groups of a file.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    schema: Arc<SchemaDescriptor>,
    created_by: String,
    groups: Vec<RowGroupMetaData>,
}

impl Directory {
    pub(super) fn new(schema: &TypePtr, properties: &WriterPropertiesPtr) -> Self {
        Self {
            schema: Arc::new(SchemaDescriptor::new(Arc::clone(schema))),
            created_by: properties.created_by().to_owned(),
            groups: Vec::new(),
        }
    }

    /// Adds this row group, which is at `offset` of the file.
    pub(crate) fn push(&mut self, group: &Group, offset: u64) -> Result<()> {
        let shift = i64::try_from(offset).unwrap_or(i64::MAX) - HEAD_LENGTH;
        let ordinal = i32::try_from(self.groups.len()).unwrap_or(i32::MAX);
        self.groups.push(moved(&group.metadata, shift, ordinal)?);
        Ok(())
    }

    /// Removes the row group that was added last, because it could not be written.
    pub(crate) fn pop(&mut self) {
        self.groups.pop();
    }

    /// Returns the number of row groups.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Returns the footer.
    pub(crate) fn foot(&mut self) -> Result<Vec<u8>> {
        let rows = self.groups.iter().map(RowGroupMetaData::num_rows).sum();
        let file = FileMetaData::new(
            1,
            rows,
            Some(self.created_by.clone()),
            None,
            Arc::clone(&self.schema),
            None,
        );
        // The groups are lent: a copy of all of them for each footer would take memory and time.
        let metadata = ParquetMetaData::new(file, mem::take(&mut self.groups));
        let mut foot = Vec::new();
        let done = ParquetMetaDataWriter::new(&mut foot, &metadata).finish();
        self.groups = metadata.into_builder().take_row_groups();
        done.map(|()| foot)
    }
}

/// Returns the description of a row group that has moved by so many bytes.
fn moved(group: &RowGroupMetaData, shift: i64, ordinal: i32) -> Result<RowGroupMetaData> {
    let columns = group.columns().iter().map(|column| {
        let builder = column.clone().into_builder();
        builder
            .set_data_page_offset(column.data_page_offset() + shift)
            .set_dictionary_page_offset(column.dictionary_page_offset().map(|at| at + shift))
            .set_bloom_filter_offset(column.bloom_filter_offset().map(|at| at + shift))
            .build()
    });
    group
        .clone()
        .into_builder()
        .set_column_metadata(columns.collect::<Result<_>>()?)
        .set_file_offset(HEAD_LENGTH + shift)
        .set_ordinal(ordinal)
        .build()
}
