//! Names for the kinds of DDL jobs (spec codec 8.5) that something here decides on. Any other number is a kind like any
//! other: its job replaces the table's definition.

use super::model::ActionType;

impl ActionType {
    pub const CREATE_SCHEMA: Self = Self(1);
    pub const DROP_SCHEMA: Self = Self(2);
    pub const CREATE_TABLE: Self = Self(3);
    pub const DROP_TABLE: Self = Self(4);
    pub const ADD_COLUMN: Self = Self(5);
    pub const DROP_COLUMN: Self = Self(6);
    pub const TRUNCATE_TABLE: Self = Self(11);
    pub const RENAME_TABLE: Self = Self(14);
    pub const CREATE_VIEW: Self = Self(21);
    pub const TRUNCATE_PARTITION: Self = Self(23);
    pub const DROP_VIEW: Self = Self(24);
    /// RECOVER TABLE and FLASHBACK TABLE.
    pub const RECOVER_TABLE: Self = Self(25);
    pub const MODIFY_SCHEMA_CHARSET: Self = Self(26);
    pub const LOCK_TABLE: Self = Self(27);
    pub const UNLOCK_TABLE: Self = Self(28);
    pub const SET_TIFLASH_REPLICA: Self = Self(30);
    pub const UPDATE_TIFLASH_STATUS: Self = Self(31);
    pub const CREATE_SEQUENCE: Self = Self(34);
    pub const ALTER_SEQUENCE: Self = Self(35);
    pub const DROP_SEQUENCE: Self = Self(36);
    pub const ADD_COLUMNS: Self = Self(37);
    /// Several columns in one statement, before multi-schema change existed.
    pub const DROP_COLUMNS: Self = Self(38);
    pub const EXCHANGE_PARTITION: Self = Self(42);
    pub const RENAME_TABLES: Self = Self(47);
    pub const ALTER_TABLE_ATTRIBUTES: Self = Self(49);
    pub const ALTER_PARTITION_ATTRIBUTES: Self = Self(50);
    pub const CREATE_PLACEMENT_POLICY: Self = Self(51);
    pub const ALTER_PLACEMENT_POLICY: Self = Self(52);
    pub const DROP_PLACEMENT_POLICY: Self = Self(53);
    pub const ALTER_PARTITION_PLACEMENT: Self = Self(54);
    pub const MODIFY_SCHEMA_PLACEMENT: Self = Self(55);
    pub const ALTER_TABLE_PLACEMENT: Self = Self(56);
    pub const CACHE_TABLE: Self = Self(57);
    pub const ALTER_STATS_OPTIONS: Self = Self(58);
    pub const NOCACHE_TABLE: Self = Self(59);
    pub const CREATE_TABLES: Self = Self(60);
    pub const MULTI_SCHEMA_CHANGE: Self = Self(61);
    pub const FLASHBACK_CLUSTER: Self = Self(62);
    /// FLASHBACK DATABASE.
    pub const RECOVER_SCHEMA: Self = Self(63);
    pub const CREATE_RESOURCE_GROUP: Self = Self(68);
    pub const ALTER_RESOURCE_GROUP: Self = Self(69);
    pub const DROP_RESOURCE_GROUP: Self = Self(70);

    /// The job makes tables, views or sequences (also out of the past).
    #[must_use]
    pub fn creates_tables(self) -> bool {
        matches!(
            self,
            Self::CREATE_TABLE
                | Self::CREATE_VIEW
                | Self::CREATE_SEQUENCE
                | Self::RECOVER_TABLE
                | Self::CREATE_TABLES
                | Self::RECOVER_SCHEMA
        )
    }

    /// The job removes one table, view or sequence.
    #[must_use]
    pub fn drops_table(self) -> bool {
        matches!(self, Self::DROP_TABLE | Self::DROP_VIEW | Self::DROP_SEQUENCE)
    }
}
