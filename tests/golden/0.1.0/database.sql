BEGIN TRANSACTION;
CREATE TABLE accounts (
	account_id TEXT NOT NULL, 
	currencies TEXT, 
	load_max INTEGER, 
	balance_max INTEGER, 
	expiry TEXT NOT NULL, 
	reversal_window_s INTEGER NOT NULL, 
	recipients TEXT, 
	approve_from INTEGER, 
	CONSTRAINT pk_accounts PRIMARY KEY (account_id), 
	CONSTRAINT ck_accounts_load_max CHECK (load_max BETWEEN 0 AND 9007199254740991), 
	CONSTRAINT ck_accounts_balance_max CHECK (balance_max BETWEEN 0 AND 9007199254740991), 
	CONSTRAINT ck_accounts_reversal_window_s CHECK (reversal_window_s >= 0)
)
 STRICT

;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE batches (
	account_id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	type TEXT NOT NULL, 
	requested INTEGER NOT NULL, 
	created INTEGER NOT NULL, 
	name TEXT, 
	metadata TEXT, 
	originated_by TEXT, 
	created_at TEXT NOT NULL, 
	created_by TEXT, 
	command_id TEXT, 
	pattern TEXT, 
	card_list TEXT, 
	options TEXT, 
	recipients TEXT, 
	pin_recipients TEXT, 
	busy INTEGER DEFAULT 0 NOT NULL, 
	job_count INTEGER DEFAULT '0' NOT NULL, 
	approved_by TEXT, 
	completed_at TEXT, 
	last_error TEXT, 
	CONSTRAINT pk_batches PRIMARY KEY (account_id, batch_id), 
	CONSTRAINT ck_batches_created CHECK (created BETWEEN 0 AND requested)
)
 STRICT

;
INSERT INTO "batches" VALUES('T00000001','july','completed','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:02:00.000Z',NULL,'cmd-2',NULL,'[{"card_id":"card-02"}]',NULL,NULL,NULL,0,0,NULL,'2026-01-15T10:02:00.000Z',NULL);
INSERT INTO "batches" VALUES('T00000001','august','running','gift_card',5000,0,NULL,NULL,NULL,'2026-01-15T10:24:00.000Z','kari','cmd-24','AUG-{n:06d}',NULL,NULL,NULL,NULL,1,1,'ola',NULL,NULL);
INSERT INTO "batches" VALUES('T00000001','block','completed','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:26:00.000Z',NULL,'cmd-26',NULL,'[{"card_id":"block"}]',NULL,NULL,NULL,0,1,NULL,'2026-01-15T10:26:00.000Z',NULL);
INSERT INTO "batches" VALUES('T00000001','unblock','completed','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:28:00.000Z',NULL,'cmd-28',NULL,'[{"card_id":"unblock"}]',NULL,NULL,NULL,0,1,NULL,'2026-01-15T10:28:00.000Z',NULL);
INSERT INTO "batches" VALUES('T00000001','close','completed','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:30:00.000Z',NULL,'cmd-30',NULL,'[{"card_id":"close"}]',NULL,NULL,NULL,0,1,NULL,'2026-01-15T10:30:00.000Z',NULL);
INSERT INTO "batches" VALUES('T00000001','extend','completed','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:32:00.000Z',NULL,'cmd-32',NULL,'[{"card_id":"extend"}]',NULL,NULL,NULL,0,1,NULL,'2026-01-15T10:32:00.000Z',NULL);
INSERT INTO "batches" VALUES('T00000001','cancel','cancelled','gift_card',1,1,NULL,NULL,NULL,'2026-01-15T10:34:00.000Z',NULL,'cmd-34',NULL,'[{"card_id":"cancel"}]',NULL,NULL,NULL,1,1,NULL,'2026-01-15T10:34:00.000Z',NULL);
CREATE TABLE cards (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	card_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	state TEXT NOT NULL, 
	blocked INTEGER NOT NULL, 
	currency TEXT, 
	amount INTEGER NOT NULL, 
	customer_id TEXT, 
	name TEXT, 
	originated_by TEXT, 
	metadata TEXT, 
	active_from TEXT, 
	activated_at TEXT, 
	expires_at TEXT, 
	batch_id TEXT, 
	created_at TEXT NOT NULL, 
	created_by TEXT, 
	version INTEGER NOT NULL, 
	amount_funds INTEGER NOT NULL, 
	amount_drawdown INTEGER NOT NULL, 
	amount_balance INTEGER NOT NULL, 
	amount_pending INTEGER NOT NULL, 
	amount_reserved INTEGER NOT NULL, 
	has_codes INTEGER DEFAULT 0 NOT NULL, 
	changed_at TEXT, 
	CONSTRAINT pk_cards PRIMARY KEY (id), 
	CONSTRAINT uq_cards_account_id_card_id UNIQUE (account_id, card_id), 
	CONSTRAINT ck_cards_version CHECK (version >= 1), 
	CONSTRAINT ck_cards_amount CHECK (amount BETWEEN 0 AND 9007199254740991), 
	CONSTRAINT ck_cards_funds CHECK (amount_funds BETWEEN 0 AND 9007199254740991), 
	CONSTRAINT ck_cards_drawdown CHECK (amount_drawdown >= 0), 
	CONSTRAINT ck_cards_pending CHECK (amount_pending >= 0), 
	CONSTRAINT ck_cards_reserved CHECK (amount_reserved BETWEEN 0 AND amount_balance), 
	CONSTRAINT ck_cards_inactive CHECK (state <> 'inactive' OR (amount_funds = 0 AND currency IS NULL)), 
	CONSTRAINT ck_cards_currency CHECK (state = 'inactive' OR currency IS NOT NULL OR state = 'closed')
)
 STRICT

;
INSERT INTO "cards" VALUES('b5cd2347-6822-502d-b646-e1ca1a216fc6','T00000001','card-01','gift_card','closed',0,'NOK',50000,NULL,'For Kari',NULL,NULL,NULL,'2026-01-15T10:01:00.000Z','2027-01-15T10:00:00.000Z',NULL,'2026-01-15T10:01:00.000Z',NULL,17,62500,17500,0,25000,0,1,'2026-01-15T10:21:00.000Z');
INSERT INTO "cards" VALUES('1dccccd3-fe5f-53bc-a539-9a223474a6a3','T00000001','card-02','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'july','2026-01-15T10:02:00.000Z',NULL,3,0,0,0,0,0,0,'2026-01-15T10:04:00.000Z');
INSERT INTO "cards" VALUES('e2d34611-3284-5425-8683-86d990790c0b','T00000001','card-03','gift_card','expired',0,'NOK',50000,NULL,NULL,NULL,NULL,NULL,'2026-01-15T10:14:00.000Z','2026-01-15T11:00:00.000Z',NULL,'2026-01-15T10:14:00.000Z',NULL,3,50000,0,94900,0,0,0,'2026-01-15T12:23:00.000Z');
INSERT INTO "cards" VALUES('73cb068a-dacb-57d8-ae50-9d3f0b0344bd','T00000001','card-04','gift_card','closed',0,'NOK',0,NULL,'For Kari',NULL,NULL,NULL,'2026-01-15T10:21:00.000Z','2027-01-15T10:00:00.000Z',NULL,'2026-01-15T10:21:00.000Z',NULL,2,0,0,0,0,0,0,'2026-01-15T10:22:00.000Z');
INSERT INTO "cards" VALUES('472df6b1-d42f-5898-b1e6-e68ec7814a8f','T00000001','block','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'block','2026-01-15T10:26:00.000Z',NULL,1,0,0,0,0,0,0,NULL);
INSERT INTO "cards" VALUES('7f5a0916-2431-5f4b-a25c-f4f99d9124a6','T00000001','unblock','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'unblock','2026-01-15T10:28:00.000Z',NULL,1,0,0,0,0,0,0,NULL);
INSERT INTO "cards" VALUES('be3258cb-00bf-583a-8181-942939491557','T00000001','close','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'close','2026-01-15T10:30:00.000Z',NULL,1,0,0,0,0,0,0,NULL);
INSERT INTO "cards" VALUES('c73ff7b7-4663-5122-86d4-dd1df1cd9f4f','T00000001','extend','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'extend','2026-01-15T10:32:00.000Z',NULL,1,0,0,0,0,0,0,NULL);
INSERT INTO "cards" VALUES('a321029c-cf33-5721-ab32-ef7e64ce9aa7','T00000001','cancel','gift_card','inactive',0,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'cancel','2026-01-15T10:34:00.000Z',NULL,1,0,0,0,0,0,0,NULL);
CREATE TABLE chunks (
	job TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	done_at TEXT, 
	encrypted_secrets TEXT, 
	refused TEXT, 
	CONSTRAINT pk_chunks PRIMARY KEY (job, number)
)
 STRICT

;
INSERT INTO "chunks" VALUES('1818ae0b-665b-5e09-a5f7-8788dc577d49',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('1818ae0b-665b-5e09-a5f7-8788dc577d49',2,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('844f4209-1993-587a-94ad-f7b1d73774f6',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('844f4209-1993-587a-94ad-f7b1d73774f6',2,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('c4a28689-5ae5-5fbb-97ea-39edce08565d',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('c4a28689-5ae5-5fbb-97ea-39edce08565d',2,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('149c315b-0fa7-55d0-85f6-7f22e4df373d',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('149c315b-0fa7-55d0-85f6-7f22e4df373d',2,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0',2,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('98f3dd28-f3a6-5368-8e41-b9e85e01fdb1',1,NULL,NULL,NULL);
INSERT INTO "chunks" VALUES('98f3dd28-f3a6-5368-8e41-b9e85e01fdb1',2,NULL,NULL,NULL);
CREATE TABLE dead_letters (
	id INTEGER NOT NULL, 
	received_at TEXT NOT NULL, 
	queue TEXT, 
	task TEXT, 
	message_id TEXT, 
	reason TEXT NOT NULL, 
	detail TEXT, 
	headers TEXT, 
	content_type TEXT, 
	content_encoding TEXT, 
	body BLOB NOT NULL, 
	is_masked INTEGER DEFAULT 0 NOT NULL, 
	sealed BLOB, 
	digest TEXT NOT NULL, 
	resolved_at TEXT, 
	resolution TEXT, 
	aside_key TEXT, 
	CONSTRAINT pk_dead_letters PRIMARY KEY (id)
)
 STRICT

;
CREATE TABLE file_parts (
	name TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	content TEXT NOT NULL, 
	CONSTRAINT pk_file_parts PRIMARY KEY (name, number)
)
 STRICT

;
CREATE TABLE files (
	name TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	cards INTEGER NOT NULL, 
	bytes INTEGER NOT NULL, 
	recipients TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	written_at TEXT, 
	confirmed_at TEXT, 
	last_error TEXT, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	next_attempt_at TEXT, 
	CONSTRAINT pk_files PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE holds (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	card TEXT NOT NULL, 
	amount INTEGER NOT NULL, 
	captured INTEGER NOT NULL, 
	released INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	expires_at TEXT, 
	CONSTRAINT pk_holds PRIMARY KEY (id), 
	CONSTRAINT fk_holds_id FOREIGN KEY(id) REFERENCES transactions (id), 
	CONSTRAINT fk_holds_card FOREIGN KEY(card) REFERENCES cards (id), 
	CONSTRAINT ck_holds_parts CHECK (captured >= 0 AND released >= 0), 
	CONSTRAINT ck_holds_amount CHECK (captured + released <= amount)
)
 STRICT

;
INSERT INTO "holds" VALUES('754ca4f0-0675-533a-a68b-c1c51408d166','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6',12500,5000,7500,'2026-01-15T10:08:00.000Z',NULL);
INSERT INTO "holds" VALUES('da2cdcc2-3885-5726-9038-5ed50e2c33d2','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6',12500,0,12500,'2026-01-15T10:11:00.000Z','2026-01-15T10:12:00.000Z');
CREATE TABLE idempotency_keys (
	account_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	event_id TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_idempotency_keys PRIMARY KEY (account_id, "key")
)
 STRICT

;
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-1','46ce133a39c87c149ff6a817c3444480f0cb83ab5b3cc15b77bdcac21e972e08:a719eb7b','351e6afb-0298-54ad-b5f8-fb91d269f720','2026-01-15T10:01:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-2','95f411361606c645f43811a31aee1e90e8e41392536279cd798f9345b677e1d4:1ade11ed','11d77488-8d7b-5ca5-acc4-70bec9787a16','2026-01-15T10:02:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-3','452f36d39c088503edef09b6d3ec0ff38f08f1e1a5e21154fbdb18c971c0cbfe:3b78ef71','d0656fb2-7c4d-52d6-bca5-31f9f842def3','2026-01-15T10:03:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-4','615950a728ec4c5a6501d57d239156ad1d3a51d4af8c7ab956e1d457318358da:02f0988e','0131e66f-7689-577c-9482-dc6421c57852','2026-01-15T10:04:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-5','c7d80b271b1cb018f09a825322774138610abf36b36480c973e0e5c791677220:0804111e','37af7b3a-6a97-55ea-b695-809e83eaf15e','2026-01-15T10:05:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/7/card-01/receipt-17','759e3e36568a0e656f03624d031543c3c4837a889ffde2d360971e643a87a9df:b1923304','f0b300c7-39da-525e-b16d-2abe4d06b54d','2026-01-15T10:06:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/f0b300c7-39da-525e-b16d-2abe4d06b54d/r-1','771d37b09035509e642fec02379f076357593947cd45dbe9104d7c5e9f8e49f7:08f7b44b','c46f15aa-053e-559b-aa65-b624a103ab80','2026-01-15T10:07:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/7/card-01/order-5','8ab0798ba65a78ff913703f921b11dbfa6d33bcb67cd0598c61b0060029eb9dc:8737e9e9','754ca4f0-0675-533a-a68b-c1c51408d166','2026-01-15T10:08:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/754ca4f0-0675-533a-a68b-c1c51408d166/parcel-1','349c6c80aed0bb0ffbba9d768cdb48737bef75481970c41282bd76b6f9f7f513:69efd401','dd953817-0ab1-5284-8981-7d5d6748d800','2026-01-15T10:09:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/754ca4f0-0675-533a-a68b-c1c51408d166/void-1','038d09604bacbe5e9eca459468a455820bf1744e24af1f430cc76492761bbebd:17d20ebd','a79c0d29-9f3d-5c55-8fc3-4aac1efb6502','2026-01-15T10:10:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/7/card-01/order-6','cf24526170cf67135334d2fea33ce032f32aa9b62ecca330819be5299e06d53c:03d2c71f','da2cdcc2-3885-5726-9038-5ed50e2c33d2','2026-01-15T10:11:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-12','49e9afdba72bd671e722ef2f63c719e41589eeb5396dabff8e017e435abd029b:fa9fa6e7','da044610-69a1-590a-a69c-545f5097c173','2026-01-15T10:12:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/7/card-01/a-1','c5f089797618e77b18d1abd2abf50ec9ca06dfdceb3ac6242d81634e8a38518f:55571b0c','b8871fce-2af1-5547-a4a5-730cdbbd02fe','2026-01-15T10:13:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-14','24d49d58c8015c2132f9638d7cfc6d4a035989dbf54b016a2ae45250bd089d3d:89557737','4b83f32c-a0c3-5ffc-acd4-9315b47eddf8','2026-01-15T10:14:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','ref/7/card-01/t-1','7eae4b24293896faeed30a20428bcf5e849ff46087dcd3630be782f64b9d5f53:1f713c32','2d4a53f8-66ae-506b-b788-fbd6a23dda95','2026-01-15T10:15:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-16','15c0c02e782c200bee699183c22288d9f0fba320e80918b7a45be3bf00668a7c:2cddaa1e','d2bf5111-be07-5972-9e99-0987190c3fa2','2026-01-15T10:16:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-17','0b2885a043dc8cdebe0ddbadbe3a61903de4ce23cd18fef55b352d764b0e7804:36154117','71e24e35-66d8-5789-ba0b-64c11b86e794','2026-01-15T10:17:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','token/7/card-01/app','fe7893a34c05766ae840c4501e205c4559551a91f996323f40398d959346e1d9:ca160778','0fd1c854-940e-53f8-9942-357d62320e36','2026-01-15T10:18:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-19','c9ebf0a31db0db3120e1cf7e75490ec8369326c591d573d3e6ff7a10227daf27:07e9fbbd','370b3f47-dfae-5cba-9179-a364a6788a94','2026-01-15T10:19:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-20','e4e313116526c78f29efb291d64474074163e8235ff562b29ebd5d8c6891d123:17039d20','d24aa217-c28b-502b-a414-6b0a18435447','2026-01-15T10:20:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-21','44222d80d1fe787fb309b81b6c89ab0fed1a7a4d55282d01469049b92e363245:b786393f','8866fc50-2db8-5ad0-b0bb-24956971c49c','2026-01-15T10:21:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-22','04b75a98a8b70f7393eb8010b20abb5444fbe44bee4ce5ed35779acea9f8c690:1bf83e5c','d70be461-ba75-5948-aeba-d68c5912b75b','2026-01-15T10:22:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-23','9bffbcbac6d3bd5468f69cf1eb8f96fd7a17a51b270451d74a3a344fbd45097b:73b2a4f7','cd8485be-273f-56a2-9b52-90ae14a280f6','2026-01-15T12:23:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-24','47592e0dd8c9079b553c59ddc372e938ecb20ff147ab322fa7b391e0c824a6c1:f647d939','699ddc96-2abb-5074-b2d4-a2fa303fd984','2026-01-15T10:24:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-25','58c4203f687b3667ae1e0e24fd9730be1e252219710b831a23046d4a0309ddb4:c47fc7f4','1818ae0b-665b-5e09-a5f7-8788dc577d49','2026-01-15T10:25:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-26','98ce094609d2539a94f0f009e400b73b88b619481f53ace6d5d0ba7b5cda6f37:bb339b83','424d303e-4ea5-5552-9d18-0d3bba43cd00','2026-01-15T10:26:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-27','4186116e6a72fe3311a05ed0225fb7efc3c55bd4449d13865cac6432574599e7:12b34876','844f4209-1993-587a-94ad-f7b1d73774f6','2026-01-15T10:27:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-28','d92cabd1e8cbf1037754fe4d67bafd9dc4905d73f49b762e1a3c62db71f37ee5:bc5ea030','3ed09e61-cc4a-5792-9b90-6eef21a13d6f','2026-01-15T10:28:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-29','20bb6e30443ddf12c8edab0fd12fa78f530456b2888c0caab327555b9cd5d14d:c45fe756','c4a28689-5ae5-5fbb-97ea-39edce08565d','2026-01-15T10:29:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-30','892e0c57e4e3c1024769f54c1ff7cdb5401e9fa3741f517896be86ecc3170f97:ad6f80f7','2b749cfb-47f6-5ddf-8235-0c14dade982d','2026-01-15T10:30:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-31','2094fe8b2b0dfde57bd87055b27ae4eb173b7476fa8564aee4878f98b8d946e9:839039ce','149c315b-0fa7-55d0-85f6-7f22e4df373d','2026-01-15T10:31:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-32','0a628b8ed44a0d31ff7cdc3d34b9af7a57f85f9f7948d9a57cca31609d68a9f2:92cd38e1','d103a066-c95d-54a0-80bf-9bda7c86fa8e','2026-01-15T10:32:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-33','f9ed42a2d17f84c2cdc0a1760e6948ca414169c8273b37b36a683c814ed56005:c7ff9f65','c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0','2026-01-15T10:33:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-34','4869801881b55904cea02c92cb26eb16af9d7a7b43891778e3744673d37a2a05:4a8d7c29','3dac5c2b-071a-5348-a316-6b29a16739f2','2026-01-15T10:34:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-35','33f7f7bcdb23ebb473416432c94e10f6f263ea308b2926fbf00d3374efb31f60:66027f63','98f3dd28-f3a6-5368-8e41-b9e85e01fdb1','2026-01-15T10:35:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-36','681d9a7732047db9749ce76058b97210cc732bcf7880df327c4c998536e9c78f:0b387172','0a6e4215-7ba6-5fed-955a-ea7c53eea9d6','2026-01-15T10:36:00.000Z');
INSERT INTO "idempotency_keys" VALUES('T00000001','id/cmd-37','0f624da9daebc12c8877cd63edeaf3121d67808ca9f4c956c1018209d5911059:5e53f924','c1b4df3d-96ca-5756-ac93-ff40351d728f','2026-01-15T10:37:00.000Z');
CREATE TABLE jobs (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	action TEXT NOT NULL, 
	sequence INTEGER DEFAULT '0' NOT NULL, 
	first INTEGER NOT NULL, 
	last INTEGER NOT NULL, 
	chunk_cards INTEGER NOT NULL, 
	open_chunks INTEGER NOT NULL, 
	command TEXT NOT NULL, 
	command_id TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	last_activity_at TEXT NOT NULL, 
	last_progress_at TEXT NOT NULL, 
	created_by TEXT, 
	originated_by TEXT, 
	reason TEXT, 
	expires_at TEXT, 
	done INTEGER NOT NULL, 
	already INTEGER NOT NULL, 
	refused INTEGER NOT NULL, 
	ended_at TEXT, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT ck_jobs_open_chunks CHECK (open_chunks >= 0)
)
 STRICT

;
INSERT INTO "jobs" VALUES('1818ae0b-665b-5e09-a5f7-8788dc577d49','T00000001','august','make',1,1,5000,5000,1,'batches.approve','cmd-25','2026-01-15T10:25:00.000Z','2026-01-15T10:25:00.000Z','2026-01-15T10:25:00.000Z','ola',NULL,NULL,NULL,0,0,0,NULL);
INSERT INTO "jobs" VALUES('844f4209-1993-587a-94ad-f7b1d73774f6','T00000001','block','block',1,1,1,200,1,'batches.block','cmd-27','2026-01-15T10:27:00.000Z','2026-01-15T10:27:00.000Z','2026-01-15T10:27:00.000Z',NULL,NULL,'stolen',NULL,0,0,0,NULL);
INSERT INTO "jobs" VALUES('c4a28689-5ae5-5fbb-97ea-39edce08565d','T00000001','unblock','unblock',1,1,1,200,1,'batches.unblock','cmd-29','2026-01-15T10:29:00.000Z','2026-01-15T10:29:00.000Z','2026-01-15T10:29:00.000Z',NULL,NULL,'found',NULL,0,0,0,NULL);
INSERT INTO "jobs" VALUES('149c315b-0fa7-55d0-85f6-7f22e4df373d','T00000001','close','close',1,1,1,200,1,'batches.close','cmd-31','2026-01-15T10:31:00.000Z','2026-01-15T10:31:00.000Z','2026-01-15T10:31:00.000Z',NULL,NULL,'campaign is over',NULL,0,0,0,NULL);
INSERT INTO "jobs" VALUES('c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0','T00000001','extend','extend',1,1,1,200,1,'batches.extend','cmd-33','2026-01-15T10:33:00.000Z','2026-01-15T10:33:00.000Z','2026-01-15T10:33:00.000Z',NULL,NULL,NULL,'2028-01-15T10:00:00.000Z',0,0,0,NULL);
INSERT INTO "jobs" VALUES('98f3dd28-f3a6-5368-8e41-b9e85e01fdb1','T00000001','cancel','cancel',1,1,1,200,1,'batches.cancel','cmd-35','2026-01-15T10:35:00.000Z','2026-01-15T10:35:00.000Z','2026-01-15T10:35:00.000Z',NULL,NULL,'not needed',NULL,0,0,0,NULL);
CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	renewals INTEGER NOT NULL, 
	position INTEGER, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
)
 STRICT

;
CREATE TABLE outbox (
	position INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	partition_key TEXT NOT NULL, 
	event TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_outbox PRIMARY KEY (position), 
	CONSTRAINT uq_outbox_id UNIQUE (id)
)
 STRICT

;
INSERT INTO "outbox" VALUES(1,'351e6afb-0298-54ad-b5f8-fb91d269f720','T00000001','card.created','card-01','T00000001/card-01','{"specversion":"1.0","id":"351e6afb-0298-54ad-b5f8-fb91d269f720","source":"/card-worker/T00000001","type":"card.created","subject":"card-01","time":"2026-01-15T10:01:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-1","data":{"command":"cards.create","command_id":"cmd-1","account_id":"T00000001","card_id":"card-01","version":1,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"unused","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":1,"amount_funds":50000,"amount_drawdown":0,"amount_balance":50000,"amount_pending":0,"amount_reserved":0,"amount_available":50000,"tokens":[],"pin":null},"transaction":{"id":"351e6afb-0298-54ad-b5f8-fb91d269f720","account_id":"T00000001","card_id":"card-01","type":"fund","amount":50000,"currency":"NOK","debit":"issuer","credit":"card","ref_id":null,"parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:01:00.000Z","created_by":null,"balance_before":0,"balance_after":50000,"version":1}},"sequence":"00000000000000000001"}','2026-01-15T10:01:00.000Z');
INSERT INTO "outbox" VALUES(2,'11d77488-8d7b-5ca5-acc4-70bec9787a16','T00000001','batch.completed','july','T00000001/july','{"specversion":"1.0","id":"11d77488-8d7b-5ca5-acc4-70bec9787a16","source":"/card-worker/T00000001","type":"batch.completed","subject":"july","time":"2026-01-15T10:02:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/july","correlationid":"cmd-2","data":{"command":"cards.batch_create","command_id":"cmd-2","account_id":"T00000001","batch_id":"july","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"card-02","type":"gift_card"}],"file":null}}','2026-01-15T10:02:00.000Z');
INSERT INTO "outbox" VALUES(3,'d0656fb2-7c4d-52d6-bca5-31f9f842def3','T00000001','card.activated','card-02','T00000001/card-02','{"specversion":"1.0","id":"d0656fb2-7c4d-52d6-bca5-31f9f842def3","source":"/card-worker/T00000001","type":"card.activated","subject":"card-02","time":"2026-01-15T10:03:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-02","correlationid":"cmd-3","data":{"command":"cards.activate","command_id":"cmd-3","account_id":"T00000001","card_id":"card-02","version":2,"card":{"account_id":"T00000001","card_id":"card-02","id":"1dccccd3-fe5f-53bc-a539-9a223474a6a3","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":null,"status":"unused","created_at":"2026-01-15T10:02:00.000Z","created_by":null,"version":2,"amount_funds":50000,"amount_drawdown":0,"amount_balance":50000,"amount_pending":0,"amount_reserved":0,"amount_available":50000,"tokens":[],"pin":null},"transaction":{"id":"d0656fb2-7c4d-52d6-bca5-31f9f842def3","account_id":"T00000001","card_id":"card-02","type":"fund","amount":50000,"currency":"NOK","debit":"issuer","credit":"card","ref_id":null,"parent_id":null,"metadata":null,"originated_by":"till 7","created_at":"2026-01-15T10:03:00.000Z","created_by":null,"balance_before":0,"balance_after":50000,"version":2}},"sequence":"00000000000000000002"}','2026-01-15T10:03:00.000Z');
INSERT INTO "outbox" VALUES(4,'0131e66f-7689-577c-9482-dc6421c57852','T00000001','card.activation_reversed','card-02','T00000001/card-02','{"specversion":"1.0","id":"0131e66f-7689-577c-9482-dc6421c57852","source":"/card-worker/T00000001","type":"card.activation_reversed","subject":"card-02","time":"2026-01-15T10:04:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-02","correlationid":"cmd-4","data":{"command":"cards.reverse_activation","command_id":"cmd-4","account_id":"T00000001","card_id":"card-02","version":3,"card":{"account_id":"T00000001","card_id":"card-02","id":"1dccccd3-fe5f-53bc-a539-9a223474a6a3","type":"gift_card","currency":null,"amount":0,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":null,"status":"inactive","created_at":"2026-01-15T10:02:00.000Z","created_by":null,"version":3,"amount_funds":0,"amount_drawdown":0,"amount_balance":0,"amount_pending":0,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":{"id":"0131e66f-7689-577c-9482-dc6421c57852","account_id":"T00000001","card_id":"card-02","type":"reversal","amount":50000,"currency":"NOK","debit":"card","credit":"issuer","ref_id":null,"parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:04:00.000Z","created_by":null,"balance_before":50000,"balance_after":0,"version":3},"reason_text":"wrong card"},"sequence":"00000000000000000003"}','2026-01-15T10:04:00.000Z');
INSERT INTO "outbox" VALUES(5,'37af7b3a-6a97-55ea-b695-809e83eaf15e','T00000001','card.updated','card-01','T00000001/card-01','{"specversion":"1.0","id":"37af7b3a-6a97-55ea-b695-809e83eaf15e","source":"/card-worker/T00000001","type":"card.updated","subject":"card-01","time":"2026-01-15T10:05:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-5","data":{"command":"cards.update","command_id":"cmd-5","account_id":"T00000001","card_id":"card-01","version":2,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"unused","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":2,"amount_funds":50000,"amount_drawdown":0,"amount_balance":50000,"amount_pending":0,"amount_reserved":0,"amount_available":50000,"tokens":[],"pin":null},"transaction":null},"sequence":"00000000000000000002"}','2026-01-15T10:05:00.000Z');
INSERT INTO "outbox" VALUES(6,'f0b300c7-39da-525e-b16d-2abe4d06b54d','T00000001','card.drawn_down','card-01','T00000001/card-01','{"specversion":"1.0","id":"f0b300c7-39da-525e-b16d-2abe4d06b54d","source":"/card-worker/T00000001","type":"card.drawn_down","subject":"card-01","time":"2026-01-15T10:06:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-6","data":{"command":"transactions.create","command_id":"cmd-6","account_id":"T00000001","card_id":"card-01","version":3,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":3,"amount_funds":50000,"amount_drawdown":12500,"amount_balance":37500,"amount_pending":0,"amount_reserved":0,"amount_available":37500,"tokens":[],"pin":null},"transaction":{"id":"f0b300c7-39da-525e-b16d-2abe4d06b54d","account_id":"T00000001","card_id":"card-01","type":"drawdown","amount":12500,"currency":"NOK","debit":"card","credit":"merchant","ref_id":"receipt-17","parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:06:00.000Z","created_by":null,"balance_before":50000,"balance_after":37500,"version":3}},"sequence":"00000000000000000003"}','2026-01-15T10:06:00.000Z');
INSERT INTO "outbox" VALUES(7,'c46f15aa-053e-559b-aa65-b624a103ab80','T00000001','card.refunded','card-01','T00000001/card-01','{"specversion":"1.0","id":"c46f15aa-053e-559b-aa65-b624a103ab80","source":"/card-worker/T00000001","type":"card.refunded","subject":"card-01","time":"2026-01-15T10:07:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-7","data":{"command":"transactions.refund","command_id":"cmd-7","account_id":"T00000001","card_id":"card-01","version":4,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":4,"amount_funds":62500,"amount_drawdown":12500,"amount_balance":50000,"amount_pending":0,"amount_reserved":0,"amount_available":50000,"tokens":[],"pin":null},"transaction":{"id":"c46f15aa-053e-559b-aa65-b624a103ab80","account_id":"T00000001","card_id":"card-01","type":"fund","amount":12500,"currency":"NOK","debit":"issuer","credit":"card","ref_id":"r-1","parent_id":"f0b300c7-39da-525e-b16d-2abe4d06b54d","metadata":null,"originated_by":null,"created_at":"2026-01-15T10:07:00.000Z","created_by":null,"balance_before":37500,"balance_after":50000,"version":4}},"sequence":"00000000000000000004"}','2026-01-15T10:07:00.000Z');
INSERT INTO "outbox" VALUES(8,'754ca4f0-0675-533a-a68b-c1c51408d166','T00000001','hold.placed','card-01','T00000001/card-01','{"specversion":"1.0","id":"754ca4f0-0675-533a-a68b-c1c51408d166","source":"/card-worker/T00000001","type":"hold.placed","subject":"card-01","time":"2026-01-15T10:08:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-8","data":{"command":"transactions.create","command_id":"cmd-8","account_id":"T00000001","card_id":"card-01","version":5,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":5,"amount_funds":62500,"amount_drawdown":12500,"amount_balance":50000,"amount_pending":12500,"amount_reserved":12500,"amount_available":37500,"tokens":[],"pin":null},"transaction":{"id":"754ca4f0-0675-533a-a68b-c1c51408d166","account_id":"T00000001","card_id":"card-01","type":"pending_capture","amount":12500,"currency":"NOK","debit":"available","credit":"reserved","ref_id":"order-5","parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:08:00.000Z","created_by":null,"balance_before":50000,"balance_after":50000,"version":5},"hold":{"id":"754ca4f0-0675-533a-a68b-c1c51408d166","amount":12500,"amount_captured":0,"amount_released":0,"amount_open":12500,"expires_at":null}},"sequence":"00000000000000000005"}','2026-01-15T10:08:00.000Z');
INSERT INTO "outbox" VALUES(9,'dd953817-0ab1-5284-8981-7d5d6748d800','T00000001','hold.captured','card-01','T00000001/card-01','{"specversion":"1.0","id":"dd953817-0ab1-5284-8981-7d5d6748d800","source":"/card-worker/T00000001","type":"hold.captured","subject":"card-01","time":"2026-01-15T10:09:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-9","data":{"command":"transactions.capture","command_id":"cmd-9","account_id":"T00000001","card_id":"card-01","version":6,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":6,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":45000,"amount_pending":12500,"amount_reserved":7500,"amount_available":37500,"tokens":[],"pin":null},"transaction":{"id":"dd953817-0ab1-5284-8981-7d5d6748d800","account_id":"T00000001","card_id":"card-01","type":"drawdown","amount":5000,"currency":"NOK","debit":"card","credit":"merchant","ref_id":"parcel-1","parent_id":"754ca4f0-0675-533a-a68b-c1c51408d166","metadata":null,"originated_by":null,"created_at":"2026-01-15T10:09:00.000Z","created_by":null,"balance_before":50000,"balance_after":45000,"version":6},"hold":{"id":"754ca4f0-0675-533a-a68b-c1c51408d166","amount":12500,"amount_captured":5000,"amount_released":0,"amount_open":7500,"expires_at":null}},"sequence":"00000000000000000006"}','2026-01-15T10:09:00.000Z');
INSERT INTO "outbox" VALUES(10,'a79c0d29-9f3d-5c55-8fc3-4aac1efb6502','T00000001','hold.voided','card-01','T00000001/card-01','{"specversion":"1.0","id":"a79c0d29-9f3d-5c55-8fc3-4aac1efb6502","source":"/card-worker/T00000001","type":"hold.voided","subject":"card-01","time":"2026-01-15T10:10:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-10","data":{"command":"transactions.void","command_id":"cmd-10","account_id":"T00000001","card_id":"card-01","version":7,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":7,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":45000,"amount_pending":12500,"amount_reserved":0,"amount_available":45000,"tokens":[],"pin":null},"transaction":{"id":"a79c0d29-9f3d-5c55-8fc3-4aac1efb6502","account_id":"T00000001","card_id":"card-01","type":"voided","amount":7500,"currency":"NOK","debit":"reserved","credit":"available","ref_id":"void-1","parent_id":"754ca4f0-0675-533a-a68b-c1c51408d166","metadata":null,"originated_by":null,"created_at":"2026-01-15T10:10:00.000Z","created_by":null,"balance_before":45000,"balance_after":45000,"version":7},"hold":{"id":"754ca4f0-0675-533a-a68b-c1c51408d166","amount":12500,"amount_captured":5000,"amount_released":7500,"amount_open":0,"expires_at":null}},"sequence":"00000000000000000007"}','2026-01-15T10:10:00.000Z');
INSERT INTO "outbox" VALUES(11,'da2cdcc2-3885-5726-9038-5ed50e2c33d2','T00000001','hold.placed','card-01','T00000001/card-01','{"specversion":"1.0","id":"da2cdcc2-3885-5726-9038-5ed50e2c33d2","source":"/card-worker/T00000001","type":"hold.placed","subject":"card-01","time":"2026-01-15T10:11:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-11","data":{"command":"transactions.create","command_id":"cmd-11","account_id":"T00000001","card_id":"card-01","version":8,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":8,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":45000,"amount_pending":25000,"amount_reserved":12500,"amount_available":32500,"tokens":[],"pin":null},"transaction":{"id":"da2cdcc2-3885-5726-9038-5ed50e2c33d2","account_id":"T00000001","card_id":"card-01","type":"pending_capture","amount":12500,"currency":"NOK","debit":"available","credit":"reserved","ref_id":"order-6","parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:11:00.000Z","created_by":null,"balance_before":45000,"balance_after":45000,"version":8},"hold":{"id":"da2cdcc2-3885-5726-9038-5ed50e2c33d2","amount":12500,"amount_captured":0,"amount_released":0,"amount_open":12500,"expires_at":"2026-01-15T10:12:00.000Z"}},"sequence":"00000000000000000008"}','2026-01-15T10:11:00.000Z');
INSERT INTO "outbox" VALUES(12,'da044610-69a1-590a-a69c-545f5097c173','T00000001','hold.expired','card-01','T00000001/card-01','{"specversion":"1.0","id":"da044610-69a1-590a-a69c-545f5097c173","source":"/card-worker/T00000001","type":"hold.expired","subject":"card-01","time":"2026-01-15T10:12:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-12","data":{"command":"holds.expire","command_id":"cmd-12","account_id":"T00000001","card_id":"card-01","version":9,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":9,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":45000,"amount_pending":25000,"amount_reserved":0,"amount_available":45000,"tokens":[],"pin":null},"transaction":{"id":"da044610-69a1-590a-a69c-545f5097c173","account_id":"T00000001","card_id":"card-01","type":"voided","amount":12500,"currency":"NOK","debit":"reserved","credit":"available","ref_id":null,"parent_id":"da2cdcc2-3885-5726-9038-5ed50e2c33d2","metadata":null,"originated_by":null,"created_at":"2026-01-15T10:12:00.000Z","created_by":null,"balance_before":45000,"balance_after":45000,"version":9},"hold":{"id":"da2cdcc2-3885-5726-9038-5ed50e2c33d2","amount":12500,"amount_captured":0,"amount_released":12500,"amount_open":0,"expires_at":"2026-01-15T10:12:00.000Z"}},"sequence":"00000000000000000009"}','2026-01-15T10:12:00.000Z');
INSERT INTO "outbox" VALUES(13,'b8871fce-2af1-5547-a4a5-730cdbbd02fe','T00000001','card.adjusted','card-01','T00000001/card-01','{"specversion":"1.0","id":"b8871fce-2af1-5547-a4a5-730cdbbd02fe","source":"/card-worker/T00000001","type":"card.adjusted","subject":"card-01","time":"2026-01-15T10:13:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-13","data":{"command":"cards.adjust","command_id":"cmd-13","account_id":"T00000001","card_id":"card-01","version":10,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"partially_used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":10,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":44900,"amount_pending":25000,"amount_reserved":0,"amount_available":44900,"tokens":[],"pin":null},"transaction":{"id":"b8871fce-2af1-5547-a4a5-730cdbbd02fe","account_id":"T00000001","card_id":"card-01","type":"adjustment","amount":100,"currency":"NOK","debit":"card","credit":"issuer","ref_id":"a-1","parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:13:00.000Z","created_by":null,"balance_before":45000,"balance_after":44900,"version":10}},"sequence":"00000000000000000010"}','2026-01-15T10:13:00.000Z');
INSERT INTO "outbox" VALUES(14,'4b83f32c-a0c3-5ffc-acd4-9315b47eddf8','T00000001','card.created','card-03','T00000001/card-03','{"specversion":"1.0","id":"4b83f32c-a0c3-5ffc-acd4-9315b47eddf8","source":"/card-worker/T00000001","type":"card.created","subject":"card-03","time":"2026-01-15T10:14:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-03","correlationid":"cmd-14","data":{"command":"cards.create","command_id":"cmd-14","account_id":"T00000001","card_id":"card-03","version":1,"card":{"account_id":"T00000001","card_id":"card-03","id":"e2d34611-3284-5425-8683-86d990790c0b","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":"2026-01-15T11:00:00.000Z","status":"unused","created_at":"2026-01-15T10:14:00.000Z","created_by":null,"version":1,"amount_funds":50000,"amount_drawdown":0,"amount_balance":50000,"amount_pending":0,"amount_reserved":0,"amount_available":50000,"tokens":[],"pin":null},"transaction":{"id":"4b83f32c-a0c3-5ffc-acd4-9315b47eddf8","account_id":"T00000001","card_id":"card-03","type":"fund","amount":50000,"currency":"NOK","debit":"issuer","credit":"card","ref_id":null,"parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:14:00.000Z","created_by":null,"balance_before":0,"balance_after":50000,"version":1}},"sequence":"00000000000000000001"}','2026-01-15T10:14:00.000Z');
INSERT INTO "outbox" VALUES(15,'2d4a53f8-66ae-506b-b788-fbd6a23dda95','T00000001','card.transferred_out','card-01','T00000001/card-01','{"specversion":"1.0","id":"2d4a53f8-66ae-506b-b788-fbd6a23dda95","source":"/card-worker/T00000001","type":"card.transferred_out","subject":"card-01","time":"2026-01-15T10:15:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-15","data":{"command":"cards.transfer","command_id":"cmd-15","account_id":"T00000001","card_id":"card-01","version":11,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":11,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":{"id":"2d4a53f8-66ae-506b-b788-fbd6a23dda95","account_id":"T00000001","card_id":"card-01","type":"transfer","amount":44900,"currency":"NOK","debit":"card","credit":"other_card","ref_id":"t-1","parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:15:00.000Z","created_by":null,"balance_before":44900,"balance_after":0,"version":11},"other_card_id":"card-03"},"sequence":"00000000000000000011"}','2026-01-15T10:15:00.000Z');
INSERT INTO "outbox" VALUES(16,'0604fa91-5926-54c3-b229-ed43805d22e3','T00000001','card.transferred_in','card-03','T00000001/card-03','{"specversion":"1.0","id":"0604fa91-5926-54c3-b229-ed43805d22e3","source":"/card-worker/T00000001","type":"card.transferred_in","subject":"card-03","time":"2026-01-15T10:15:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-03","correlationid":"cmd-15","data":{"command":"cards.transfer","command_id":"cmd-15","account_id":"T00000001","card_id":"card-03","version":2,"card":{"account_id":"T00000001","card_id":"card-03","id":"e2d34611-3284-5425-8683-86d990790c0b","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":"2026-01-15T11:00:00.000Z","status":"unused","created_at":"2026-01-15T10:14:00.000Z","created_by":null,"version":2,"amount_funds":50000,"amount_drawdown":0,"amount_balance":94900,"amount_pending":0,"amount_reserved":0,"amount_available":94900,"tokens":[],"pin":null},"transaction":{"id":"0604fa91-5926-54c3-b229-ed43805d22e3","account_id":"T00000001","card_id":"card-03","type":"transfer","amount":44900,"currency":"NOK","debit":"other_card","credit":"card","ref_id":null,"parent_id":null,"metadata":null,"originated_by":null,"created_at":"2026-01-15T10:15:00.000Z","created_by":null,"balance_before":50000,"balance_after":94900,"version":2},"other_card_id":"card-01"},"sequence":"00000000000000000002"}','2026-01-15T10:15:00.000Z');
INSERT INTO "outbox" VALUES(17,'d2bf5111-be07-5972-9e99-0987190c3fa2','T00000001','card.blocked','card-01','T00000001/card-01','{"specversion":"1.0","id":"d2bf5111-be07-5972-9e99-0987190c3fa2","source":"/card-worker/T00000001","type":"card.blocked","subject":"card-01","time":"2026-01-15T10:16:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-16","data":{"command":"cards.block","command_id":"cmd-16","account_id":"T00000001","card_id":"card-01","version":12,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"blocked","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":12,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":null,"reason_text":"lost"},"sequence":"00000000000000000012"}','2026-01-15T10:16:00.000Z');
INSERT INTO "outbox" VALUES(18,'71e24e35-66d8-5789-ba0b-64c11b86e794','T00000001','card.unblocked','card-01','T00000001/card-01','{"specversion":"1.0","id":"71e24e35-66d8-5789-ba0b-64c11b86e794","source":"/card-worker/T00000001","type":"card.unblocked","subject":"card-01","time":"2026-01-15T10:17:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-17","data":{"command":"cards.unblock","command_id":"cmd-17","account_id":"T00000001","card_id":"card-01","version":13,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":13,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":null,"reason_text":"found"},"sequence":"00000000000000000013"}','2026-01-15T10:17:00.000Z');
INSERT INTO "outbox" VALUES(19,'0fd1c854-940e-53f8-9942-357d62320e36','T00000001','token.created','card-01','T00000001/card-01','{"specversion":"1.0","id":"0fd1c854-940e-53f8-9942-357d62320e36","source":"/card-worker/T00000001","type":"token.created","subject":"card-01","time":"2026-01-15T10:18:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-18","data":{"command":"tokens.create","command_id":"cmd-18","account_id":"T00000001","card_id":"card-01","version":14,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":14,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[{"id":"0fd1c854-940e-53f8-9942-357d62320e36","ref_id":"app","masked_code":"DINCARD:********-****-****-****-********0ae7","format":null,"expires_at":"2026-01-15T11:18:00.000Z","expires_after_transaction":true}],"pin":null},"transaction":null,"token":{"id":"0fd1c854-940e-53f8-9942-357d62320e36","ref_id":"app","masked_code":"DINCARD:********-****-****-****-********0ae7","format":null,"expires_at":"2026-01-15T11:18:00.000Z","expires_after_transaction":true},"sealed":"-----BEGIN AGE ENCRYPTED FILE-----\n…\n-----END AGE ENCRYPTED FILE-----\n"},"sequence":"00000000000000000014"}','2026-01-15T10:18:00.000Z');
INSERT INTO "outbox" VALUES(20,'370b3f47-dfae-5cba-9179-a364a6788a94','T00000001','token.revoked','card-01','T00000001/card-01','{"specversion":"1.0","id":"370b3f47-dfae-5cba-9179-a364a6788a94","source":"/card-worker/T00000001","type":"token.revoked","subject":"card-01","time":"2026-01-15T10:19:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-19","data":{"command":"tokens.revoke","command_id":"cmd-19","account_id":"T00000001","card_id":"card-01","version":15,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":15,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":null,"token":{"id":"0fd1c854-940e-53f8-9942-357d62320e36","ref_id":"app","masked_code":"DINCARD:********-****-****-****-********0ae7","format":null,"expires_at":"2026-01-15T11:18:00.000Z","expires_after_transaction":true}},"sequence":"00000000000000000015"}','2026-01-15T10:19:00.000Z');
INSERT INTO "outbox" VALUES(21,'d24aa217-c28b-502b-a414-6b0a18435447','T00000001','card.pin_rotated','card-01','T00000001/card-01','{"specversion":"1.0","id":"d24aa217-c28b-502b-a414-6b0a18435447","source":"/card-worker/T00000001","type":"card.pin_rotated","subject":"card-01","time":"2026-01-15T10:20:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-20","data":{"command":"cards.rotate_pin","command_id":"cmd-20","account_id":"T00000001","card_id":"card-01","version":16,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"used","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":16,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":{"format":{"numbers":true}}},"transaction":null,"sealed":"-----BEGIN AGE ENCRYPTED FILE-----\n…\n-----END AGE ENCRYPTED FILE-----\n"},"sequence":"00000000000000000016"}','2026-01-15T10:20:00.000Z');
INSERT INTO "outbox" VALUES(22,'8866fc50-2db8-5ad0-b0bb-24956971c49c','T00000001','card.replaced','card-01','T00000001/card-01','{"specversion":"1.0","id":"8866fc50-2db8-5ad0-b0bb-24956971c49c","source":"/card-worker/T00000001","type":"card.replaced","subject":"card-01","time":"2026-01-15T10:21:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-21","data":{"command":"cards.replace","command_id":"cmd-21","account_id":"T00000001","card_id":"card-01","version":17,"card":{"account_id":"T00000001","card_id":"card-01","id":"b5cd2347-6822-502d-b646-e1ca1a216fc6","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"closed","created_at":"2026-01-15T10:01:00.000Z","created_by":null,"version":17,"amount_funds":62500,"amount_drawdown":17500,"amount_balance":0,"amount_pending":25000,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":{"format":{"numbers":true}}},"transaction":null,"other_card_id":"card-04","reason_text":"worn"},"sequence":"00000000000000000017"}','2026-01-15T10:21:00.000Z');
INSERT INTO "outbox" VALUES(23,'73db2348-36d7-55b5-b211-3ef86858b5e3','T00000001','card.created','card-04','T00000001/card-04','{"specversion":"1.0","id":"73db2348-36d7-55b5-b211-3ef86858b5e3","source":"/card-worker/T00000001","type":"card.created","subject":"card-04","time":"2026-01-15T10:21:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-04","correlationid":"cmd-21","data":{"command":"cards.replace","command_id":"cmd-21","account_id":"T00000001","card_id":"card-04","version":1,"card":{"account_id":"T00000001","card_id":"card-04","id":"73cb068a-dacb-57d8-ae50-9d3f0b0344bd","type":"gift_card","currency":"NOK","amount":0,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"unused","created_at":"2026-01-15T10:21:00.000Z","created_by":null,"version":1,"amount_funds":0,"amount_drawdown":0,"amount_balance":0,"amount_pending":0,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":null,"other_card_id":"card-01"},"sequence":"00000000000000000001"}','2026-01-15T10:21:00.000Z');
INSERT INTO "outbox" VALUES(24,'d70be461-ba75-5948-aeba-d68c5912b75b','T00000001','card.closed','card-04','T00000001/card-04','{"specversion":"1.0","id":"d70be461-ba75-5948-aeba-d68c5912b75b","source":"/card-worker/T00000001","type":"card.closed","subject":"card-04","time":"2026-01-15T10:22:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-04","correlationid":"cmd-22","data":{"command":"cards.close","command_id":"cmd-22","account_id":"T00000001","card_id":"card-04","version":2,"card":{"account_id":"T00000001","card_id":"card-04","id":"73cb068a-dacb-57d8-ae50-9d3f0b0344bd","type":"gift_card","currency":"NOK","amount":0,"customer_id":null,"name":"For Kari","originated_by":null,"metadata":null,"active_from":null,"expires_at":"2027-01-15T10:00:00.000Z","status":"closed","created_at":"2026-01-15T10:21:00.000Z","created_by":null,"version":2,"amount_funds":0,"amount_drawdown":0,"amount_balance":0,"amount_pending":0,"amount_reserved":0,"amount_available":0,"tokens":[],"pin":null},"transaction":null,"reason_text":"asked by the customer"},"sequence":"00000000000000000002"}','2026-01-15T10:22:00.000Z');
INSERT INTO "outbox" VALUES(25,'cd8485be-273f-56a2-9b52-90ae14a280f6','T00000001','card.expired','card-03','T00000001/card-03','{"specversion":"1.0","id":"cd8485be-273f-56a2-9b52-90ae14a280f6","source":"/card-worker/T00000001","type":"card.expired","subject":"card-03","time":"2026-01-15T12:23:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-03","correlationid":"cmd-23","data":{"command":"cards.expire","command_id":"cmd-23","account_id":"T00000001","card_id":"card-03","version":3,"card":{"account_id":"T00000001","card_id":"card-03","id":"e2d34611-3284-5425-8683-86d990790c0b","type":"gift_card","currency":"NOK","amount":50000,"customer_id":null,"name":null,"originated_by":null,"metadata":null,"active_from":null,"expires_at":"2026-01-15T11:00:00.000Z","status":"expired","created_at":"2026-01-15T10:14:00.000Z","created_by":null,"version":3,"amount_funds":50000,"amount_drawdown":0,"amount_balance":94900,"amount_pending":0,"amount_reserved":0,"amount_available":94900,"tokens":[],"pin":null},"transaction":null},"sequence":"00000000000000000003"}','2026-01-15T12:23:00.000Z');
INSERT INTO "outbox" VALUES(26,'699ddc96-2abb-5074-b2d4-a2fa303fd984','T00000001','batch.awaiting_approval','august','T00000001/august','{"specversion":"1.0","id":"699ddc96-2abb-5074-b2d4-a2fa303fd984","source":"/card-worker/T00000001","type":"batch.awaiting_approval","subject":"august","time":"2026-01-15T10:24:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/august","correlationid":"cmd-24","data":{"command":"cards.batch_create","command_id":"cmd-24","account_id":"T00000001","batch_id":"august","state":"awaiting_approval","requested":5000,"created":0,"name":null,"metadata":null,"created_by":"kari","approved_by":null,"card_id_pattern":"AUG-{n:06d}"}}','2026-01-15T10:24:00.000Z');
INSERT INTO "outbox" VALUES(27,'1818ae0b-665b-5e09-a5f7-8788dc577d49','T00000001','batch.approved','august','T00000001/august','{"specversion":"1.0","id":"1818ae0b-665b-5e09-a5f7-8788dc577d49","source":"/card-worker/T00000001","type":"batch.approved","subject":"august","time":"2026-01-15T10:25:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/august","correlationid":"cmd-25","data":{"command":"batches.approve","command_id":"cmd-25","account_id":"T00000001","batch_id":"august","state":"running","requested":5000,"created":0,"name":null,"metadata":null,"created_by":"kari","approved_by":"ola","card_id_pattern":"AUG-{n:06d}"}}','2026-01-15T10:25:00.000Z');
INSERT INTO "outbox" VALUES(28,'424d303e-4ea5-5552-9d18-0d3bba43cd00','T00000001','batch.completed','block','T00000001/block','{"specversion":"1.0","id":"424d303e-4ea5-5552-9d18-0d3bba43cd00","source":"/card-worker/T00000001","type":"batch.completed","subject":"block","time":"2026-01-15T10:26:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/block","correlationid":"cmd-26","data":{"command":"cards.batch_create","command_id":"cmd-26","account_id":"T00000001","batch_id":"block","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"block","type":"gift_card"}],"file":null}}','2026-01-15T10:26:00.000Z');
INSERT INTO "outbox" VALUES(29,'844f4209-1993-587a-94ad-f7b1d73774f6','T00000001','batch.recalling','block','T00000001/block','{"specversion":"1.0","id":"844f4209-1993-587a-94ad-f7b1d73774f6","source":"/card-worker/T00000001","type":"batch.recalling","subject":"block","time":"2026-01-15T10:27:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/block","correlationid":"cmd-27","data":{"command":"batches.block","command_id":"cmd-27","account_id":"T00000001","batch_id":"block","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"recall":{"action":"block","first":1,"last":1,"done":0,"already":0,"refused":0},"reason_text":"stolen"}}','2026-01-15T10:27:00.000Z');
INSERT INTO "outbox" VALUES(30,'3ed09e61-cc4a-5792-9b90-6eef21a13d6f','T00000001','batch.completed','unblock','T00000001/unblock','{"specversion":"1.0","id":"3ed09e61-cc4a-5792-9b90-6eef21a13d6f","source":"/card-worker/T00000001","type":"batch.completed","subject":"unblock","time":"2026-01-15T10:28:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/unblock","correlationid":"cmd-28","data":{"command":"cards.batch_create","command_id":"cmd-28","account_id":"T00000001","batch_id":"unblock","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"unblock","type":"gift_card"}],"file":null}}','2026-01-15T10:28:00.000Z');
INSERT INTO "outbox" VALUES(31,'c4a28689-5ae5-5fbb-97ea-39edce08565d','T00000001','batch.recalling','unblock','T00000001/unblock','{"specversion":"1.0","id":"c4a28689-5ae5-5fbb-97ea-39edce08565d","source":"/card-worker/T00000001","type":"batch.recalling","subject":"unblock","time":"2026-01-15T10:29:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/unblock","correlationid":"cmd-29","data":{"command":"batches.unblock","command_id":"cmd-29","account_id":"T00000001","batch_id":"unblock","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"recall":{"action":"unblock","first":1,"last":1,"done":0,"already":0,"refused":0},"reason_text":"found"}}','2026-01-15T10:29:00.000Z');
INSERT INTO "outbox" VALUES(32,'2b749cfb-47f6-5ddf-8235-0c14dade982d','T00000001','batch.completed','close','T00000001/close','{"specversion":"1.0","id":"2b749cfb-47f6-5ddf-8235-0c14dade982d","source":"/card-worker/T00000001","type":"batch.completed","subject":"close","time":"2026-01-15T10:30:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/close","correlationid":"cmd-30","data":{"command":"cards.batch_create","command_id":"cmd-30","account_id":"T00000001","batch_id":"close","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"close","type":"gift_card"}],"file":null}}','2026-01-15T10:30:00.000Z');
INSERT INTO "outbox" VALUES(33,'149c315b-0fa7-55d0-85f6-7f22e4df373d','T00000001','batch.recalling','close','T00000001/close','{"specversion":"1.0","id":"149c315b-0fa7-55d0-85f6-7f22e4df373d","source":"/card-worker/T00000001","type":"batch.recalling","subject":"close","time":"2026-01-15T10:31:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/close","correlationid":"cmd-31","data":{"command":"batches.close","command_id":"cmd-31","account_id":"T00000001","batch_id":"close","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"recall":{"action":"close","first":1,"last":1,"done":0,"already":0,"refused":0},"reason_text":"campaign is over"}}','2026-01-15T10:31:00.000Z');
INSERT INTO "outbox" VALUES(34,'d103a066-c95d-54a0-80bf-9bda7c86fa8e','T00000001','batch.completed','extend','T00000001/extend','{"specversion":"1.0","id":"d103a066-c95d-54a0-80bf-9bda7c86fa8e","source":"/card-worker/T00000001","type":"batch.completed","subject":"extend","time":"2026-01-15T10:32:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/extend","correlationid":"cmd-32","data":{"command":"cards.batch_create","command_id":"cmd-32","account_id":"T00000001","batch_id":"extend","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"extend","type":"gift_card"}],"file":null}}','2026-01-15T10:32:00.000Z');
INSERT INTO "outbox" VALUES(35,'c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0','T00000001','batch.recalling','extend','T00000001/extend','{"specversion":"1.0","id":"c8bdb0a9-b5c7-5630-887b-9ba8bd9b1da0","source":"/card-worker/T00000001","type":"batch.recalling","subject":"extend","time":"2026-01-15T10:33:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/extend","correlationid":"cmd-33","data":{"command":"batches.extend","command_id":"cmd-33","account_id":"T00000001","batch_id":"extend","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"recall":{"action":"extend","first":1,"last":1,"done":0,"already":0,"refused":0}}}','2026-01-15T10:33:00.000Z');
INSERT INTO "outbox" VALUES(36,'3dac5c2b-071a-5348-a316-6b29a16739f2','T00000001','batch.completed','cancel','T00000001/cancel','{"specversion":"1.0","id":"3dac5c2b-071a-5348-a316-6b29a16739f2","source":"/card-worker/T00000001","type":"batch.completed","subject":"cancel","time":"2026-01-15T10:34:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/cancel","correlationid":"cmd-34","data":{"command":"cards.batch_create","command_id":"cmd-34","account_id":"T00000001","batch_id":"cancel","state":"completed","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"cards":[{"card_id":"cancel","type":"gift_card"}],"file":null}}','2026-01-15T10:34:00.000Z');
INSERT INTO "outbox" VALUES(37,'98f3dd28-f3a6-5368-8e41-b9e85e01fdb1','T00000001','batch.cancelled','cancel','T00000001/cancel','{"specversion":"1.0","id":"98f3dd28-f3a6-5368-8e41-b9e85e01fdb1","source":"/card-worker/T00000001","type":"batch.cancelled","subject":"cancel","time":"2026-01-15T10:35:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/cancel","correlationid":"cmd-35","data":{"command":"batches.cancel","command_id":"cmd-35","account_id":"T00000001","batch_id":"cancel","state":"cancelled","requested":1,"created":1,"name":null,"metadata":null,"created_by":null,"approved_by":null,"reason_text":"not needed"}}','2026-01-15T10:35:00.000Z');
INSERT INTO "outbox" VALUES(38,'0a6e4215-7ba6-5fed-955a-ea7c53eea9d6','T00000001','command.rejected','nobody','T00000001/nobody','{"specversion":"1.0","id":"0a6e4215-7ba6-5fed-955a-ea7c53eea9d6","source":"/card-worker/T00000001","type":"command.rejected","subject":"nobody","time":"2026-01-15T10:36:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/nobody","correlationid":"cmd-36","data":{"command":"cards.close","command_id":"cmd-36","account_id":"T00000001","reason":"card_not_found","message":"There is no card with this card_id.","card_id":"nobody"}}','2026-01-15T10:36:00.000Z');
INSERT INTO "outbox" VALUES(39,'c1b4df3d-96ca-5756-ac93-ff40351d728f','T00000001','command.rejected','card-01','T00000001/card-01','{"specversion":"1.0","id":"c1b4df3d-96ca-5756-ac93-ff40351d728f","source":"/card-worker/T00000001","type":"command.rejected","subject":"card-01","time":"2026-01-15T10:37:00.000Z","datacontenttype":"application/json","partitionkey":"T00000001/card-01","correlationid":"cmd-37","data":{"command":"cards.create","command_id":"cmd-37","account_id":"T00000001","reason":"invalid","message":"A field is missing, unknown or invalid; see problems.","card_id":"card-01","problems":[{"field":"amount","message":"is required"},{"field":"currency","message":"is required"}]}}','2026-01-15T10:37:00.000Z');
CREATE TABLE pin_attempts (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	card TEXT, 
	number INTEGER NOT NULL, 
	outcome TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_pin_attempts PRIMARY KEY (id)
)
 STRICT

;
CREATE TABLE pins (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	kid TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	changed_at TEXT NOT NULL, 
	format TEXT, 
	CONSTRAINT pk_pins PRIMARY KEY (id)
)
 STRICT

;
INSERT INTO "pins" VALUES('b5cd2347-6822-502d-b646-e1ca1a216fc6','T00000001','p1','20aa26add67a2a12bf05ab469c98ff42fd9119c40d2abf0a4cafedca9ffeba8b','2026-01-15T10:20:00.000Z','{"numbers":true}');
CREATE TABLE reserved_card_ids (
	account_id TEXT NOT NULL, 
	card_id TEXT NOT NULL, 
	batch_id TEXT NOT NULL, 
	CONSTRAINT pk_reserved_card_ids PRIMARY KEY (account_id, card_id)
)
 STRICT

;
CREATE TABLE starts (
	message_key TEXT NOT NULL, 
	starts INTEGER NOT NULL, 
	started_at TEXT NOT NULL, 
	deaths INTEGER, 
	CONSTRAINT pk_starts PRIMARY KEY (message_key)
)
 STRICT

;
CREATE TABLE tokens (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	card TEXT NOT NULL, 
	kid TEXT NOT NULL, 
	digest TEXT NOT NULL, 
	masked_code TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	ref_id TEXT, 
	format TEXT, 
	expires_at TEXT, 
	expires_after_transaction INTEGER NOT NULL, 
	metadata TEXT, 
	spent_at TEXT, 
	revoked_at TEXT, 
	CONSTRAINT pk_tokens PRIMARY KEY (id), 
	CONSTRAINT uq_tokens_digest UNIQUE (digest)
)
 STRICT

;
INSERT INTO "tokens" VALUES('0fd1c854-940e-53f8-9942-357d62320e36','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','t1','3dab9e478d539e083612f8e8e0bdd1c418167b5c835e214d56780416b98fd8d6','DINCARD:********-****-****-****-********0ae7','2026-01-15T10:18:00.000Z','app',NULL,'2026-01-15T11:18:00.000Z',1,NULL,NULL,'2026-01-15T10:19:00.000Z');
CREATE TABLE transactions (
	id TEXT NOT NULL, 
	account_id TEXT NOT NULL, 
	card TEXT NOT NULL, 
	type TEXT NOT NULL, 
	amount INTEGER NOT NULL, 
	currency TEXT NOT NULL, 
	debit TEXT NOT NULL, 
	credit TEXT NOT NULL, 
	ref_id TEXT, 
	parent_id TEXT, 
	metadata TEXT, 
	originated_by TEXT, 
	created_at TEXT NOT NULL, 
	created_by TEXT, 
	balance_before INTEGER NOT NULL, 
	balance_after INTEGER NOT NULL, 
	version INTEGER NOT NULL, 
	CONSTRAINT pk_transactions PRIMARY KEY (id), 
	CONSTRAINT uq_transactions_card_version UNIQUE (card, version), 
	CONSTRAINT uq_transactions_account_id_card_ref_id UNIQUE (account_id, card, ref_id), 
	CONSTRAINT fk_transactions_card FOREIGN KEY(card) REFERENCES cards (id), 
	CONSTRAINT ck_transactions_amount CHECK (amount > 0), 
	CONSTRAINT ck_transactions_sides CHECK (debit <> credit), 
	CONSTRAINT ck_transactions_balance CHECK (balance_before >= 0 AND balance_after >= 0 AND balance_after - balance_before = CASE WHEN credit = 'card' THEN amount WHEN debit = 'card' THEN -amount ELSE 0 END)
)
 STRICT

;
INSERT INTO "transactions" VALUES('351e6afb-0298-54ad-b5f8-fb91d269f720','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','fund',50000,'NOK','issuer','card',NULL,NULL,NULL,NULL,'2026-01-15T10:01:00.000Z',NULL,0,50000,1);
INSERT INTO "transactions" VALUES('d0656fb2-7c4d-52d6-bca5-31f9f842def3','T00000001','1dccccd3-fe5f-53bc-a539-9a223474a6a3','fund',50000,'NOK','issuer','card',NULL,NULL,NULL,'till 7','2026-01-15T10:03:00.000Z',NULL,0,50000,2);
INSERT INTO "transactions" VALUES('0131e66f-7689-577c-9482-dc6421c57852','T00000001','1dccccd3-fe5f-53bc-a539-9a223474a6a3','reversal',50000,'NOK','card','issuer',NULL,NULL,NULL,NULL,'2026-01-15T10:04:00.000Z',NULL,50000,0,3);
INSERT INTO "transactions" VALUES('f0b300c7-39da-525e-b16d-2abe4d06b54d','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','drawdown',12500,'NOK','card','merchant','receipt-17',NULL,NULL,NULL,'2026-01-15T10:06:00.000Z',NULL,50000,37500,3);
INSERT INTO "transactions" VALUES('c46f15aa-053e-559b-aa65-b624a103ab80','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','fund',12500,'NOK','issuer','card','r-1','f0b300c7-39da-525e-b16d-2abe4d06b54d',NULL,NULL,'2026-01-15T10:07:00.000Z',NULL,37500,50000,4);
INSERT INTO "transactions" VALUES('754ca4f0-0675-533a-a68b-c1c51408d166','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','pending_capture',12500,'NOK','available','reserved','order-5',NULL,NULL,NULL,'2026-01-15T10:08:00.000Z',NULL,50000,50000,5);
INSERT INTO "transactions" VALUES('dd953817-0ab1-5284-8981-7d5d6748d800','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','drawdown',5000,'NOK','card','merchant','parcel-1','754ca4f0-0675-533a-a68b-c1c51408d166',NULL,NULL,'2026-01-15T10:09:00.000Z',NULL,50000,45000,6);
INSERT INTO "transactions" VALUES('a79c0d29-9f3d-5c55-8fc3-4aac1efb6502','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','voided',7500,'NOK','reserved','available','void-1','754ca4f0-0675-533a-a68b-c1c51408d166',NULL,NULL,'2026-01-15T10:10:00.000Z',NULL,45000,45000,7);
INSERT INTO "transactions" VALUES('da2cdcc2-3885-5726-9038-5ed50e2c33d2','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','pending_capture',12500,'NOK','available','reserved','order-6',NULL,NULL,NULL,'2026-01-15T10:11:00.000Z',NULL,45000,45000,8);
INSERT INTO "transactions" VALUES('da044610-69a1-590a-a69c-545f5097c173','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','voided',12500,'NOK','reserved','available',NULL,'da2cdcc2-3885-5726-9038-5ed50e2c33d2',NULL,NULL,'2026-01-15T10:12:00.000Z',NULL,45000,45000,9);
INSERT INTO "transactions" VALUES('b8871fce-2af1-5547-a4a5-730cdbbd02fe','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','adjustment',100,'NOK','card','issuer','a-1',NULL,NULL,NULL,'2026-01-15T10:13:00.000Z',NULL,45000,44900,10);
INSERT INTO "transactions" VALUES('4b83f32c-a0c3-5ffc-acd4-9315b47eddf8','T00000001','e2d34611-3284-5425-8683-86d990790c0b','fund',50000,'NOK','issuer','card',NULL,NULL,NULL,NULL,'2026-01-15T10:14:00.000Z',NULL,0,50000,1);
INSERT INTO "transactions" VALUES('2d4a53f8-66ae-506b-b788-fbd6a23dda95','T00000001','b5cd2347-6822-502d-b646-e1ca1a216fc6','transfer',44900,'NOK','card','other_card','t-1',NULL,NULL,NULL,'2026-01-15T10:15:00.000Z',NULL,44900,0,11);
INSERT INTO "transactions" VALUES('0604fa91-5926-54c3-b229-ed43805d22e3','T00000001','e2d34611-3284-5425-8683-86d990790c0b','transfer',44900,'NOK','other_card','card',NULL,NULL,NULL,NULL,'2026-01-15T10:15:00.000Z',NULL,50000,94900,2);
CREATE TABLE unpublished (
	position INTEGER NOT NULL, 
	CONSTRAINT pk_unpublished PRIMARY KEY (position)
)
 STRICT

;
INSERT INTO "unpublished" VALUES(1);
INSERT INTO "unpublished" VALUES(2);
INSERT INTO "unpublished" VALUES(3);
INSERT INTO "unpublished" VALUES(4);
INSERT INTO "unpublished" VALUES(5);
INSERT INTO "unpublished" VALUES(6);
INSERT INTO "unpublished" VALUES(7);
INSERT INTO "unpublished" VALUES(8);
INSERT INTO "unpublished" VALUES(9);
INSERT INTO "unpublished" VALUES(10);
INSERT INTO "unpublished" VALUES(11);
INSERT INTO "unpublished" VALUES(12);
INSERT INTO "unpublished" VALUES(13);
INSERT INTO "unpublished" VALUES(14);
INSERT INTO "unpublished" VALUES(15);
INSERT INTO "unpublished" VALUES(16);
INSERT INTO "unpublished" VALUES(17);
INSERT INTO "unpublished" VALUES(18);
INSERT INTO "unpublished" VALUES(19);
INSERT INTO "unpublished" VALUES(20);
INSERT INTO "unpublished" VALUES(21);
INSERT INTO "unpublished" VALUES(22);
INSERT INTO "unpublished" VALUES(23);
INSERT INTO "unpublished" VALUES(24);
INSERT INTO "unpublished" VALUES(25);
INSERT INTO "unpublished" VALUES(26);
INSERT INTO "unpublished" VALUES(27);
INSERT INTO "unpublished" VALUES(28);
INSERT INTO "unpublished" VALUES(29);
INSERT INTO "unpublished" VALUES(30);
INSERT INTO "unpublished" VALUES(31);
INSERT INTO "unpublished" VALUES(32);
INSERT INTO "unpublished" VALUES(33);
INSERT INTO "unpublished" VALUES(34);
INSERT INTO "unpublished" VALUES(35);
INSERT INTO "unpublished" VALUES(36);
INSERT INTO "unpublished" VALUES(37);
INSERT INTO "unpublished" VALUES(38);
INSERT INTO "unpublished" VALUES(39);
CREATE INDEX ix_cards_due ON cards (expires_at) WHERE state = 'active' AND expires_at IS NOT NULL;
CREATE INDEX ix_transactions_parent_id ON transactions (parent_id) WHERE parent_id IS NOT NULL;
CREATE TRIGGER transactions_no_update BEFORE UPDATE ON transactions BEGIN SELECT RAISE(ABORT, 'transactions is append-only'); END;
CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions BEGIN SELECT RAISE(ABORT, 'transactions is append-only'); END;
CREATE INDEX ix_holds_card ON holds (card) WHERE captured + released < amount;
CREATE INDEX ix_holds_due ON holds (expires_at) WHERE expires_at IS NOT NULL AND captured + released < amount;
CREATE INDEX ix_tokens_card ON tokens (card) WHERE spent_at IS NULL AND revoked_at IS NULL;
CREATE UNIQUE INDEX uq_tokens_card_ref_id ON tokens (card, ref_id) WHERE ref_id IS NOT NULL;
CREATE INDEX ix_pin_attempts_card_number ON pin_attempts (card, number);
CREATE INDEX ix_batches_busy ON batches (account_id) WHERE busy;
CREATE INDEX ix_jobs_unfinished ON jobs (last_activity_at) WHERE ended_at IS NULL;
CREATE INDEX ix_jobs_of_batch ON jobs (account_id, batch_id) WHERE ended_at IS NULL;
CREATE INDEX ix_files_batch ON files (account_id, batch_id);
CREATE INDEX ix_files_waiting ON files (created_at) WHERE written_at IS NULL AND confirmed_at IS NULL;
CREATE TRIGGER insert_unpublished AFTER INSERT ON outbox BEGIN INSERT INTO unpublished VALUES (new.position); END;
CREATE UNIQUE INDEX uq_dead_letters_message_id_digest ON dead_letters (coalesce(message_id, ''), digest);
COMMIT;
