# ruff: noqa: E501  # what is told in a line is one line
"""The stories of a card's money and days: what is spent, locked, given back, corrected, moved."""

STORIES = {
    "money comes and goes": """
        create    A1 500 NOK                   -> card.created        # A1: 500 unused, 500 free
        draw      A1 200 NOK                   -> card.drawn_down     # A1: 300 partially_used, 300 free
        draw      A1 301 NOK                   -> command.rejected exceeds_available
        draw      A1 300 NOK                   -> card.drawn_down     # A1: 0 used, 0 free
        draw      A1 1 NOK                     -> command.rejected exceeds_available
        fund      A1 50 NOK                    -> card.funded         # A1: 50 partially_used
        draw      A1 1 SEK                     -> command.rejected currency_mismatch
        fund      A1 1 SEK                     -> command.rejected currency_mismatch
        draw      A1 0 NOK                     -> command.rejected invalid
        fund      A1 0 NOK                     -> command.rejected invalid
    """,
    "what is locked can't be spent, and is not spent": """
        create    A1 500 NOK                   -> card.created
        hold      A1 200 NOK h1                -> hold.placed         # A1: 500 unused, 300 free
        draw      A1 301 NOK                   -> command.rejected exceeds_available
        hold      A1 301 NOK                   -> command.rejected exceeds_available
        capture   @h1 50                       -> hold.captured       # A1: 450 partially_used, 300 free
        capture   @h1 151                      -> command.rejected exceeds_hold
        capture   @h1 100                      -> hold.captured       # A1: 350 partially_used, 300 free
        void      @h1                          -> hold.voided         # A1: 350 partially_used, 350 free
        capture   @h1 1                        -> command.rejected hold_closed
        void      @h1                          -> command.rejected hold_closed
        hold      A1 350 NOK h2                -> hold.placed         # A1: 350 partially_used, 0 free
        capture   @h2                          -> hold.captured       # A1: 0 used, 0 free
        void      @h2                          -> command.rejected hold_closed
        capture   @nobody 1                    -> command.rejected hold_not_found
        void      @nobody                      -> command.rejected hold_not_found
        release   @nobody                      -> command.rejected hold_not_found
    """,
    "a hold has its own time": """
        create    A1 500 NOK                   -> card.created
        hold      A1 200 NOK h1 lasts=+1h      -> hold.placed
        hold      A1 100 NOK h2 lasts=+2h      -> hold.placed         # A1: 500 unused, 200 free
        release   @h1                          -> command.rejected not_due
        wait      1h
        capture   @h1                          -> command.rejected hold_closed
        void      @h1                          -> command.rejected hold_closed
        draw      A1 401 NOK                   -> command.rejected exceeds_available
        draw      A1 400 NOK                   -> hold.expired + card.drawn_down  # A1: 100 partially_used, 0 free
        release   @h1                          -> command.rejected hold_closed
        wait      1h
        release   @h2                          -> hold.expired        # A1: 100 partially_used, 100 free
        hold      A1 1 NOK lasts=+0s           -> command.rejected invalid
    """,
    "only what is pending can be captured, and only what was drawn down refunded": """
        create    A1 500 NOK                   -> card.created
        draw      A1 200 NOK d1                -> card.drawn_down
        hold      A1 100 NOK h1                -> hold.placed
        capture   @d1 1                        -> command.rejected hold_not_found
        refund    @h1 1                        -> command.rejected transaction_not_found
        refund    @nobody 1                    -> command.rejected transaction_not_found
        refund    @d1 150                      -> card.refunded       # A1: 450 partially_used, 350 free
        refund    @d1 51                       -> command.rejected exceeds_drawdown
        refund    @d1                          -> card.refunded       # A1: 500 partially_used, 400 free
        refund    @d1                          -> command.rejected exceeds_drawdown
        refund    @d1 1                        -> command.rejected exceeds_drawdown
        capture   @h1 60 c1                    -> hold.captured
        refund    @c1 61                       -> command.rejected exceeds_drawdown
        refund    @c1 60                       -> card.refunded       # A1: 500 partially_used, 460 free
    """,
    "when all is spent": """
        create    A1 5 NOK                     -> card.created
        hold      A1 5 NOK h1                  -> hold.placed
        capture   @h1 c1                       -> hold.captured       # A1: 0 used
        capture   @h1                          -> command.rejected hold_closed
        void      @h1                          -> command.rejected hold_closed
        release   @h1                          -> command.rejected hold_closed
        refund    @c1                          -> card.refunded       # A1: 5 partially_used
    """,
    "a reference happens once on its card": """
        create    A1 500 NOK                   -> card.created
        create    A2 500 NOK                   -> card.created
        hold      A1 100 NOK r1                -> hold.placed
        capture   @r1 10 r1                    -> command.rejected idempotency_conflict
        draw      A2 10 NOK r1                 -> card.drawn_down
        adjust    A1 5 NOK r1                  -> command.rejected idempotency_conflict
        transfer  A1 to=A2 5 r2                -> card.transferred_out + card.transferred_in
        draw      A2 10 NOK r2                 -> card.drawn_down
    """,
    "corrections, up and down": """
        create    A1 500 NOK                   -> card.created
        adjust    A1 -100 NOK                  -> card.adjusted       # A1: 400 unused
        adjust    A1 50 NOK                    -> card.adjusted       # A1: 450 unused
        adjust    A1 0 NOK                     -> command.rejected invalid
        adjust    A1 -451 NOK                  -> command.rejected exceeds_available
        adjust    A1 5 SEK                     -> command.rejected currency_mismatch
    """,
    "balance moves to another card": """
        create    A1 500 NOK                   -> card.created
        create    A2 100 NOK                   -> card.created
        create    A3 100 SEK                   -> card.created
        hold      A1 50 NOK lasts=+1h          -> hold.placed
        transfer  A1 to=A2 451                 -> command.rejected exceeds_available
        transfer  A1 to=A2 150                 -> card.transferred_out + card.transferred_in  # A2: 250 unused
        transfer  A1 to=A2                     -> card.transferred_out + card.transferred_in  # A1: 50 unused, 0 free
        transfer  A1 to=A2                     -> command.rejected exceeds_available
        transfer  A2 to=A1 0                   -> command.rejected invalid
        transfer  A2 to=A2                     -> command.rejected invalid
        transfer  A2 to=A3                     -> command.rejected currency_mismatch
        transfer  A2 to=A9                     -> command.rejected card_not_found
        wait      1h
        transfer  A2 to=A1 50                  -> hold.expired + card.transferred_out + card.transferred_in  # A1: 100 unused, 100 free
        block     A1                           -> card.blocked
        transfer  A2 to=A1 50                  -> command.rejected card_blocked
        transfer  A1 to=A2 50                  -> command.rejected card_blocked
    """,
    "a transfer keeps to the dates of both cards": """
        create    A1 500 NOK expires=+2d from=+1h -> card.created
        create    A2 5 NOK expires=+3d         -> card.created
        create    A3 5 NOK                     -> card.created
        create    A4 5 NOK expires=+1d from=+9h -> card.created
        transfer  A1 to=A2 1                   -> command.rejected card_not_started
        wait      1h
        transfer  A1 to=A2 1                   -> card.transferred_out + card.transferred_in
        transfer  A1 to=A3 1                   -> card.transferred_out + card.transferred_in
        account   transfers_extend_expiry=no
        transfer  A1 to=A2 1                   -> command.rejected expiry_mismatch
        transfer  A1 to=A3 1                   -> command.rejected expiry_mismatch
        transfer  A2 to=A1 1                   -> card.transferred_out + card.transferred_in
        transfer  A3 to=A1 1                   -> card.transferred_out + card.transferred_in
        transfer  A1 to=A4 1                   -> card.transferred_out + card.transferred_in
    """,
    "the last capture releases the rest": """
        create    A1 500 NOK                   -> card.created
        hold      A1 300 NOK h1                -> hold.placed         # A1: 500 unused, 200 free
        capture   @h1 100                      -> hold.captured       # A1: 400 partially_used, 200 free
        capture   @h1 50 final=yes             -> hold.captured + hold.voided  # A1: 350 partially_used, 350 free
        capture   @h1 1                        -> command.rejected hold_closed
        hold      A1 100 NOK h2                -> hold.placed
        capture   @h2 100 final=yes            -> hold.captured       # A1: 250 partially_used, 250 free
        hold      A1 100 NOK h3                -> hold.placed
        capture   @h3 final=yes                -> hold.captured       # A1: 150 partially_used, 150 free
        hold      A1 100 NOK h4                -> hold.placed
        capture   @h4 101 final=yes            -> command.rejected exceeds_hold  # A1: 150 partially_used, 50 free
    """,
    "what a last capture releases on an expired card goes to the account": """
        account   expiry=breakage
        create    A1 100 NOK expires=+1d       -> card.created
        hold      A1 70 NOK h1 lasts=+9d       -> hold.placed
        hold      A1 30 NOK h2 lasts=+9d       -> hold.placed
        wait      1d
        expire    A1                           -> card.expired        # A1: 100 expired, 0 free
        capture   @h1 40                       -> hold.captured       # A1: 60 expired, 0 free
        capture   @h1 10 final=yes             -> hold.captured + hold.voided + card.expired  # A1: 30 expired, 0 free
        capture   @h2 30 final=yes             -> hold.captured       # A1: 0 expired, 0 free
    """,
    "money that moved and came back has moved": """
        batch     B1: A1 A2 A3 A4              -> batch.completed
        create    X1 500 NOK                   -> card.created
        activate  A1 500 NOK                   -> card.activated
        transfer  A1 to=X1 500                 -> card.transferred_out + card.transferred_in
        adjust    A1 500 NOK                   -> card.adjusted       # A1: 500 unused
        reverse   A1                           -> command.rejected not_reversible
        activate  A2 500 NOK                   -> card.activated
        transfer  A2 to=X1 500                 -> card.transferred_out + card.transferred_in
        transfer  X1 to=A2 500                 -> card.transferred_out + card.transferred_in  # A2: 500 unused
        reverse   A2                           -> command.rejected not_reversible
        activate  A3 500 NOK                   -> card.activated
        adjust    A3 5 NOK                     -> card.adjusted
        adjust    A3 -5 NOK                    -> card.adjusted       # A3: 500 unused
        reverse   A3                           -> command.rejected not_reversible
        replace   A3 to=A4                     -> card.replaced + card.activated  # A4: 500 unused
        reverse   A4                           -> command.rejected not_reversible
        fund      A4 500 NOK                   -> card.funded
        transfer  A4 to=X1 500                 -> card.transferred_out + card.transferred_in
        reverse   A4                           -> command.rejected not_reversible
    """,
    "a card that was reversed begins again untouched": """
        batch     B1: A1                       -> batch.completed
        activate  A1 500 NOK                   -> card.activated
        reverse   A1                           -> card.activation_reversed  # A1: 0 inactive
        activate  A1 500 NOK                   -> card.activated
        reverse   A1                           -> card.activation_reversed  # A1: 0 inactive
        activate  A1 0 NOK                     -> card.activated
        fund      A1 5 NOK                     -> card.funded
        draw      A1 5 NOK d1                  -> card.drawn_down
        refund    @d1                          -> card.refunded
        adjust    A1 -5 NOK                    -> card.adjusted
        reverse   A1                           -> command.rejected not_reversible
    """,
    "a refund follows its card to the one that has replaced it": """
        account   balance_max=500
        create    A1 500 NOK                   -> card.created
        draw      A1 100 NOK d1                -> card.drawn_down
        replace   A1 to=A2                     -> card.replaced + card.created  # A2: 400 unused
        refund    @d1 40                       -> card.refunded       # A2: 440 unused
        replace   A2 to=A3                     -> card.replaced + card.created  # A3: 440 unused
        refund    @d1 61                       -> command.rejected exceeds_drawdown
        block     A3                           -> card.blocked
        refund    @d1 50                       -> card.refunded       # A3: 490 blocked
        fund      A3 10 NOK                    -> card.funded         # A3: 500 blocked
        refund    @d1                          -> card.refunded       # A3: 510 blocked
        refund    @d1                          -> command.rejected exceeds_drawdown
        draw      A3 1 NOK r1                  -> command.rejected card_blocked
        unblock   A3                           -> card.unblocked
        draw      A3 1 NOK r1                  -> card.drawn_down
        refund    @r1 r1                       -> command.rejected idempotency_conflict
        close     A3                           -> card.closed
        refund    @r1                          -> command.rejected card_closed
    """,
    "a card that has replaced another one is not sold again": """
        create    A1 10 NOK                    -> card.created
        draw      A1 10 NOK d1                 -> card.drawn_down
        batch     B1: A2                       -> batch.completed
        replace   A1 to=A2                     -> card.replaced + card.activated  # A2: 0 unused
        reverse   A2                           -> command.rejected not_reversible
        refund    @d1                          -> card.refunded       # A2: 10 unused
    """,
    "an activation is taken back while nothing has happened": """
        batch     B1: A1 A2 A3                 -> batch.completed
        activate  A1 500 NOK                   -> card.activated
        reverse   A1                           -> card.activation_reversed  # A1: 0 inactive
        activate  A1 300 SEK                   -> card.activated      # A1: 300 unused
        update    A1 name=Kari                 -> card.updated
        wait      24h
        reverse   A1                           -> card.activation_reversed  # A1: 0 inactive
        activate  A1 0 NOK                     -> card.activated
        reverse   A1                           -> card.activation_reversed  # A1: 0 inactive
        activate  A1 500 NOK                   -> card.activated
        fund      A1 1 NOK                     -> card.funded
        reverse   A1                           -> command.rejected not_reversible
        activate  A2 500 NOK                   -> card.activated
        hold      A2 1 NOK h1                  -> hold.placed
        void      @h1                          -> hold.voided
        reverse   A2                           -> command.rejected not_reversible
        activate  A3 500 NOK                   -> card.activated
        wait      24h
        wait      1s
        reverse   A3                           -> command.rejected not_reversible
    """,
    "a card is changed, and its end put off": """
        create    A1 5 NOK expires=+1d         -> card.created
        create    A2 5 NOK                     -> card.created
        update    A1 name=Kari customer_id=c7  -> card.updated
        update    A1 name=null                 -> card.updated
        update    A1                           -> command.rejected invalid
        update    A1 expires=-1h               -> command.rejected invalid
        update    A1 expires=+1h               -> command.rejected expiry_not_later
        update    A1 expires=+1d               -> command.rejected expiry_not_later
        update    A2 expires=+9d               -> command.rejected expiry_not_later
        update    A1 expires=null              -> command.rejected invalid
        update    A1 expires=+2d               -> card.updated
        wait      2d
        draw      A1 5 NOK                     -> command.rejected card_expired
        expire    A1                           -> card.expired
        update    A1 expires=+1d               -> card.updated        # A1: 5 unused
        draw      A1 5 NOK                     -> card.drawn_down     # A1: 0 used
    """,
    "a card is frozen and thawed": """
        create    A1 500 NOK                   -> card.created
        draw      A1 100 NOK d1                -> card.drawn_down
        hold      A1 100 NOK h1                -> hold.placed
        hold      A1 50 NOK h2                 -> hold.placed
        unblock   A1                           -> command.rejected card_not_blocked
        block     A1                           -> card.blocked        # A1: 400 blocked
        block     A1                           -> command.rejected card_blocked
        draw      A1 1 NOK                     -> command.rejected card_blocked
        hold      A1 1 NOK                     -> command.rejected card_blocked
        fund      A1 50 NOK                    -> card.funded         # A1: 450 blocked
        refund    @d1 10                       -> card.refunded
        adjust    A1 -10 NOK                   -> card.adjusted
        capture   @h1                          -> hold.captured       # A1: 350 blocked
        void      @h2                          -> hold.voided
        unblock   A1                           -> card.unblocked      # A1: 350 partially_used, 350 free
        batch     B1: A2                       -> batch.completed
        block     A2                           -> card.blocked        # A2: 0 inactive
        block     A2                           -> command.rejected card_blocked
        activate  A2 5 NOK                     -> command.rejected card_blocked
        unblock   A2                           -> card.unblocked
        unblock   A2                           -> command.rejected card_not_blocked
    """,
    "a card is closed, and what is left paid out": """
        create    A1 500 NOK                   -> card.created
        hold      A1 100 NOK h1                -> hold.placed
        hold      A1 100 NOK h2 lasts=+1h      -> hold.placed
        close     A1                           -> command.rejected exceeds_available
        void      @h1                          -> hold.voided
        close     A1                           -> command.rejected exceeds_available
        wait      1h
        close     A1                           -> hold.expired + card.closed  # A1: 0 closed
        fund      A1 1 NOK                     -> command.rejected card_closed
        create    A2 0 NOK                     -> card.created
        block     A2                           -> card.blocked
        close     A2                           -> card.closed         # A2: 0 closed
        unblock   A2                           -> command.rejected card_closed
    """,
    "a card takes another's place": """
        create    A1 500 NOK expires=+9d       -> card.created
        draw      A1 100 NOK d1                -> card.drawn_down
        hold      A1 100 NOK h1                -> hold.placed
        replace   A1 to=A2                     -> command.rejected exceeds_available
        void      @h1                          -> hold.voided
        replace   A1 to=A1                     -> command.rejected invalid
        replace   A1 to=A2                     -> card.replaced + card.created  # A2: 400 unused
        replace   A1 to=A3                     -> command.rejected card_closed
        refund    @d1 1                        -> card.refunded       # A2: 401 unused
        adjust    A2 -1 NOK                    -> card.adjusted       # A2: 400 unused
        batch     B1: A3 A4                    -> batch.completed
        block     A2                           -> card.blocked
        replace   A2 to=A3                     -> card.replaced + card.activated  # A3: 400 unused
        block     A4                           -> card.blocked
        replace   A3 to=A4                     -> command.rejected card_blocked
        replace   A3 to=A2                     -> command.rejected card_closed
        create    A5 0 NOK                     -> card.created
        replace   A3 to=A5                     -> command.rejected card_already_active
        replace   A5 to=A6                     -> card.replaced + card.created  # A6: 0 unused
    """,
    "before its time a card can be loaded, and nothing spent": """
        create    A1 500 NOK from=+1d          -> card.created
        draw      A1 1 NOK                     -> command.rejected card_not_started
        hold      A1 1 NOK                     -> command.rejected card_not_started
        fund      A1 1 NOK                     -> card.funded         # A1: 501 unused
        wait      1d
        draw      A1 1 NOK                     -> card.drawn_down     # A1: 500 partially_used
    """,
    "a hold outlives its card": """
        create    A1 500 NOK expires=+1d       -> card.created
        hold      A1 100 NOK h1                -> hold.placed
        hold      A1 50 NOK h2                 -> hold.placed
        hold      A1 10 NOK h3 lasts=+3d       -> hold.placed
        wait      1d
        capture   @h1 40                       -> hold.captured       # A1: 460 expired
        expire    A1                           -> card.expired
        capture   @h1                          -> hold.captured       # A1: 400 expired
        void      @h2                          -> hold.voided         # A1: 400 expired, 390 free
        draw      A1 1 NOK                     -> command.rejected card_expired
        wait      2d
        release   @h3                          -> hold.expired        # A1: 400 expired, 400 free
    """,
    "what is left when a card expires is the account's": """
        account   expiry=breakage
        create    A1 500 NOK expires=+1d       -> card.created
        hold      A1 100 NOK h1                -> hold.placed
        hold      A1 50 NOK h2 lasts=+2d       -> hold.placed
        hold      A1 10 NOK h3 lasts=+3d       -> hold.placed
        hold      A1 7 NOK h4 lasts=+1h        -> hold.placed
        wait      1d
        expire    A1                           -> hold.expired + card.expired  # A1: 160 expired, 0 free
        capture   @h1 40                       -> hold.captured       # A1: 120 expired, 0 free
        void      @h1                          -> hold.voided + card.expired  # A1: 60 expired, 0 free
        wait      1d
        release   @h2                          -> hold.expired + card.expired  # A1: 10 expired, 0 free
        wait      1d
        block     A1                           -> hold.expired + card.blocked + card.expired  # A1: 0 expired, 0 free
        create    A2 5 NOK expires=+1d         -> card.created
        hold      A2 5 NOK h5 lasts=+2d        -> hold.placed
        wait      1d
        expire    A2                           -> card.expired        # A2: 5 expired, 0 free
        wait      1d
        update    A2 expires=+9d               -> hold.expired + card.updated  # A2: 5 unused, 5 free
    """,
    "an account's limits": """
        account   load_max=100 balance_max=150 currencies=NOK,SEK
        create    A1 101 NOK                   -> command.rejected limit_exceeded
        create    A1 100 EUR                   -> command.rejected currency_mismatch
        create    A1 100 NOK                   -> card.created
        fund      A1 51 NOK                    -> command.rejected limit_exceeded
        fund      A1 50 NOK                    -> card.funded         # A1: 150 unused
        adjust    A1 1 NOK                     -> command.rejected limit_exceeded
        create    A2 1 NOK                     -> card.created
        transfer  A2 to=A1 1                   -> command.rejected limit_exceeded
        draw      A1 10 NOK d1                 -> card.drawn_down
        fund      A1 5 NOK                     -> card.funded
        refund    @d1                          -> card.refunded       # A1: 155 partially_used
        batch     B1: A3                       -> batch.completed
        activate  A3 101 NOK                   -> command.rejected limit_exceeded
        activate  A3 1 EUR                     -> command.rejected currency_mismatch
    """,
    "an account's window for taking back": """
        account   window=1h
        create    A1 5 NOK                     -> card.created
        wait      1h
        wait      1s
        reverse   A1                           -> command.rejected not_reversible
    """,
}

# Every command about a card that shows what it may not show, or that isn't there.
ON_CARD = {
    "reverse A1": {"used": "not_reversible", "partially_used": "not_reversible"},
    "update A1 name=x": {
        **dict.fromkeys(("inactive", "expired", "due", "blocked"), "card.updated"),
        **dict.fromkeys(("unused", "used", "partially_used"), "card.updated"),
    },
    "block A1": {
        **dict.fromkeys(("inactive", "expired", "due"), "card.blocked"),
        **dict.fromkeys(("unused", "used", "partially_used"), "card.blocked"),
    },
    "unblock A1": {
        **dict.fromkeys(("inactive", "expired", "due"), "card_not_blocked"),
        **dict.fromkeys(("unused", "used", "partially_used"), "card_not_blocked"),
        "blocked": "card.unblocked",
    },
    "close A1": dict.fromkeys(("unused", "used", "partially_used", "blocked"), "card.closed"),
    "replace A1 to=A9": dict.fromkeys(
        ("unused", "used", "partially_used", "blocked"), "card.replaced + card.created"
    ),
    "transfer A1 to=A2 1": {
        "unused": "exceeds_available",
        "used": "exceeds_available",
        "partially_used": "card.transferred_out + card.transferred_in",
    },
    "adjust A1 1 NOK": dict.fromkeys(
        ("unused", "used", "partially_used", "blocked"), "card.adjusted"
    ),
    "draw A1 1 NOK": {
        "unused": "exceeds_available",
        "used": "exceeds_available",
        "partially_used": "card.drawn_down",
    },
    "fund A1 1 NOK": dict.fromkeys(("unused", "used", "partially_used", "blocked"), "card.funded"),
}
# What names its card by a transaction, which was made before the card came to show this.
BY_TRANSACTION = {
    "capture @h 1": dict.fromkeys(
        ("unused", "used", "partially_used", "blocked", "expired", "due"), "hold.captured"
    ),
    "refund @d 1": dict.fromkeys(("used", "partially_used", "blocked"), "card.refunded"),
    "void @h": dict.fromkeys(
        ("used", "partially_used", "blocked", "expired", "due", "closed", "inactive"),
        "hold.voided",
    ),
    "release @h": dict.fromkeys(
        ("used", "partially_used", "blocked", "expired", "due", "closed", "inactive"), "not_due"
    ),
}
ELSE = {
    "inactive": "card_inactive",
    "closed": "card_closed",
    "expired": "card_expired",
    "due": "card_expired",
    "blocked": "card_blocked",
}


def _outcome(said: str) -> str:
    return said if "." in said else f"command.rejected {said}"


def _cells() -> dict[str, str]:
    stories = {}
    for command, row in ON_CARD.items():
        stories[f"{command}, no card"] = f"{command} -> command.rejected card_not_found"
        for status, said in (ELSE | row).items():
            stories[f"{command}, {status}"] = f"""
                create A2 5 NOK -> card.created
                given A1 {status}
                {command} -> {_outcome(said)}
            """
    for command, row in BY_TRANSACTION.items():
        for status, said in (ELSE | row).items():
            stories[f"{command}, {status}"] = f"""
                create A1 20 NOK -> card.created
                draw A1 10 NOK d -> card.drawn_down
                hold A1 5 NOK h lasts=+9d -> hold.placed
                turn A1 {status}
                {command} -> {_outcome(said)}
            """
    return stories


CELLS = _cells()
