# ruff: noqa: E501  # what is told in a line is one line
"""The stories of tokens and PINs: who gets at a card by them, and who doesn't."""

STORIES = {
    "a card is made with a token and a PIN, and paid with": """
        create    A1 500 NOK token pin         -> card.created
        draw      $A1 100 NOK pin=right        -> card.drawn_down     # A1: 400 partially_used
        fund      $A1 50 NOK pin=right         -> card.funded         # A1: 450 partially_used
        hold      $A1 50 NOK pin=right         -> hold.placed         # A1: 450 partially_used, 400 free
        draw      $A1 401 NOK pin=right        -> command.rejected exceeds_available
        draw      $A1 100 SEK pin=right        -> command.rejected currency_mismatch
        draw      $A1 100 NOK                  -> command.rejected pin_required
        draw      $A1 100 NOK pin=wrong        -> command.rejected card_not_usable
        draw      A1 100 NOK                   -> card.drawn_down     # A1: 350 partially_used, 300 free
        draw      A1 100 NOK pin=right         -> card.drawn_down     # A1: 250 partially_used, 200 free
        draw      A1 100 NOK pin=wrong         -> command.rejected card_not_usable
        draw      $nobody 100 NOK              -> command.rejected card_not_usable
        draw      $nobody 100 NOK pin=wrong    -> command.rejected card_not_usable
        draw      B1 100 NOK pin=wrong         -> command.rejected card_not_found
    """,
    "no card with codes is called as a formula begins": """
        create    =A1 500 NOK token            -> command.rejected invalid
        create    @A1 500 NOK pin              -> command.rejected invalid
        create    +A1 500 NOK token pin        -> command.rejected invalid
        create    -A1 500 NOK                  -> card.created
        repin     -A1                          -> command.rejected invalid
        token     -A1 t1                       -> command.rejected invalid
        batch     B1: A1 -A2                   -> command.rejected invalid
    """,
    "a card without a PIN needs none, and takes none": """
        create    A1 500 NOK token             -> card.created
        draw      $A1 100 NOK                  -> card.drawn_down     # A1: 400 partially_used
        draw      $A1 100 NOK pin=wrong        -> command.rejected card_not_usable
        draw      A1 100 NOK pin=wrong         -> command.rejected card_not_usable
    """,
    "a batch makes them for each of its cards": """
        batch     B1: A1 A2 token pin          -> batch.completed
        draw      $A1 100 NOK pin=right        -> command.rejected card_not_usable
        activate  A1 500 NOK                   -> card.activated
        draw      $A1 100 NOK pin=right        -> card.drawn_down     # A1: 400 partially_used
        draw      $A2 100 NOK pin=right        -> command.rejected card_not_usable
    """,
    "of a card that can't be used, who has a token learns no more": """
        create    A1 500 NOK token             -> card.created
        block     A1                           -> card.blocked
        draw      $A1 1 NOK                    -> command.rejected card_not_usable
        fund      $A1 1 NOK                    -> command.rejected card_not_usable
        unblock   A1                           -> card.unblocked
        close     A1                           -> card.closed
        draw      $A1 1 NOK                    -> command.rejected card_not_usable
        create    A2 500 NOK token expires=+1h -> card.created
        create    A3 500 NOK token from=+1h    -> card.created
        draw      $A3 1 NOK                    -> command.rejected card_not_usable
        draw      A3 1 NOK                     -> command.rejected card_not_started
        fund      $A3 1 NOK                    -> card.funded
        wait      1h
        draw      $A2 1 NOK                    -> command.rejected card_not_usable
        draw      $A3 1 NOK                    -> card.drawn_down
    """,
    "a token that serves once": """
        create    A1 500 NOK token=once        -> card.created
        draw      $A1 501 NOK                  -> command.rejected exceeds_available
        hold      $A1 100 NOK h1               -> hold.placed
        draw      $A1 100 NOK                  -> command.rejected token_spent
        void      @h1                          -> hold.voided
        draw      $A1 100 NOK                  -> command.rejected token_spent
        revoke    A1 $A1                       -> command.rejected token_spent
        draw      A1 100 NOK                   -> card.drawn_down
    """,
    "a dry run spends no token": """
        create    A1 500 NOK token=once        -> card.created
        dry draw  $A1 100 NOK                  -> card.drawn_down
        draw      $A1 100 NOK                  -> card.drawn_down
        draw      $A1 100 NOK                  -> command.rejected token_spent
        dry create A2 5 NOK token pin          -> card.created
        draw      A2 1 NOK                     -> command.rejected card_not_found
        dry draw  $A1 100 NOK pin=wrong        -> command.rejected invalid
    """,
    "an activation says how long the token serves": """
        batch     B1: A1 A2 A3 token           -> batch.completed
        activate  A1 500 NOK token=once        -> card.activated
        activate  A2 500 NOK token=+1h         -> card.activated
        activate  A3 500 NOK                   -> card.activated
        draw      $A1 1 NOK                    -> card.drawn_down
        draw      $A1 1 NOK                    -> command.rejected token_spent
        wait      1h
        draw      $A2 1 NOK                    -> command.rejected card_not_usable
        draw      $A3 1 NOK                    -> card.drawn_down
        draw      $A3 1 NOK                    -> card.drawn_down
        batch     B2: A4                       -> batch.completed
        activate  A4 5 NOK token=once          -> command.rejected token_not_found
        activate  A4 5 NOK                     -> card.activated
    """,
    "a reversed activation leaves the tokens as they were issued": """
        batch     B1: A1 A2 A3 A4 token        -> batch.completed
        token     A3 t3 lasts=+3h              -> token.created
        activate  A1 500 NOK token=+1h         -> card.activated
        activate  A2 500 NOK token=once        -> card.activated
        activate  A3 500 NOK token=+1h         -> card.activated
        activate  A4 500 NOK token=+1h         -> card.activated
        revoke    A4 $A4                       -> token.revoked
        wait      2h
        reverse   A1                           -> card.activation_reversed
        reverse   A2                           -> card.activation_reversed
        reverse   A3                           -> card.activation_reversed
        reverse   A4                           -> card.activation_reversed
        activate  A1 500 NOK                   -> card.activated
        draw      $A1 1 NOK                    -> card.drawn_down
        activate  A2 500 NOK                   -> card.activated
        draw      $A2 1 NOK                    -> card.drawn_down
        draw      $A2 1 NOK                    -> card.drawn_down
        activate  A3 500 NOK token=+2h         -> card.activated
        draw      $A3 1 NOK                    -> card.drawn_down
        draw      $t3 1 NOK                    -> card.drawn_down
        draw      $t3 1 NOK                    -> command.rejected token_spent
        activate  A4 500 NOK token=+1h         -> command.rejected token_not_found
        activate  A4 500 NOK                   -> card.activated
        draw      $A4 1 NOK                    -> command.rejected card_not_usable
    """,
    "a reversed activation leaves the tokens as the batch says": """
        batch     B1: A1 token=once            -> batch.completed
        batch     B2: A2 token=+3h             -> batch.completed
        activate  A1 500 NOK token=+1h         -> card.activated
        activate  A2 500 NOK token=+9h         -> card.activated
        reverse   A1                           -> card.activation_reversed
        reverse   A2                           -> card.activation_reversed
        wait      2h
        activate  A1 500 NOK                   -> card.activated
        activate  A2 500 NOK                   -> card.activated
        draw      $A1 1 NOK                    -> card.drawn_down
        draw      $A1 1 NOK                    -> command.rejected token_spent
        draw      $A2 1 NOK                    -> card.drawn_down
        wait      1h
        draw      $A2 1 NOK                    -> command.rejected card_not_usable
    """,
    "more tokens, for a while or for one payment": """
        create    A1 500 NOK token             -> card.created
        token     A1 t1                        -> token.created
        token     A1 t2 lasts=+2h many         -> token.created
        draw      $t1 1 NOK                    -> card.drawn_down
        draw      $t1 1 NOK                    -> command.rejected token_spent
        draw      $t2 1 NOK                    -> card.drawn_down
        draw      $t2 1 NOK                    -> card.drawn_down
        draw      $A1 1 NOK                    -> card.drawn_down
        wait      2h
        draw      $t2 1 NOK                    -> command.rejected card_not_usable
        revoke    A1 $t2                       -> token.revoked
        revoke    A1 $A1                       -> token.revoked
        draw      $A1 1 NOK                    -> command.rejected card_not_usable
        revoke    A1 $A1                       -> command.rejected token_not_found
        revoke    A1 $nobody                   -> command.rejected token_not_found
        create    A2 500 NOK                   -> card.created
        token     A2 t3                        -> token.created
        revoke    A1 $t3                       -> command.rejected token_not_found
        draw      $t3 1 NOK                    -> card.drawn_down
    """,
    "a PIN changes": """
        create    A1 500 NOK token             -> card.created
        draw      $A1 1 NOK                    -> card.drawn_down
        repin     A1                           -> card.pin_rotated
        draw      $A1 1 NOK                    -> command.rejected pin_required
        draw      $A1 1 NOK pin=right          -> card.drawn_down
        repin     A1                           -> card.pin_rotated
        draw      $A1 1 NOK pin=right          -> card.drawn_down
    """,
    "five wrong PINs lock the PIN, not the card": """
        create    A1 500 NOK token pin         -> card.created
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      A1 1 NOK pin=wrong           -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable  # A1: 500 unused
        draw      $A1 1 NOK pin=wrong          -> command.rejected + card.pin_locked card_not_usable  # A1: 500 unused
        draw      $A1 1 NOK pin=right          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK                    -> command.rejected card_not_usable
        dry draw  $A1 1 NOK                    -> command.rejected card_not_usable
        fund      $A1 1 NOK                    -> command.rejected card_not_usable
        draw      A1 1 NOK pin=right           -> command.rejected card_not_usable
        draw      A1 1 NOK                     -> card.drawn_down
        wait      899s
        draw      $A1 1 NOK pin=right          -> command.rejected card_not_usable
        wait      1s
        draw      $A1 1 NOK                    -> command.rejected pin_required
        draw      $A1 999 NOK pin=right        -> command.rejected exceeds_available
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=right          -> card.drawn_down
        unblock   A1                           -> command.rejected card_not_blocked
    """,
    "after a lock one PIN is compared, and locks for twice as long": """
        create    A1 500 NOK token pin         -> card.created
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected + card.pin_locked card_not_usable
        wait      15m
        draw      A1 1 NOK pin=wrong           -> command.rejected + card.pin_locked card_not_usable
        wait      29m
        draw      $A1 1 NOK pin=right          -> command.rejected card_not_usable
        unblock   A1                           -> card.unblocked
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        unblock   A1                           -> command.rejected card_not_blocked
        draw      $A1 1 NOK pin=wrong          -> command.rejected + card.pin_locked card_not_usable
        wait      14m
        draw      $A1 1 NOK pin=right          -> command.rejected card_not_usable
        wait      1m
        unblock   A1                           -> card.unblocked
        unblock   A1                           -> command.rejected card_not_blocked
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
    """,
    "a new PIN has no lock and no wrong attempts": """
        create    A1 500 NOK token pin         -> card.created
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected + card.pin_locked card_not_usable
        dry unblock A1                         -> card.unblocked
        dry repin A1                           -> card.pin_rotated
        draw      $A1 1 NOK pin=right          -> command.rejected card_not_usable
        repin     A1                           -> card.pin_rotated
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=right          -> card.drawn_down
    """,
    "a right PIN forgives the wrong ones before": """
        create    A1 500 NOK token pin         -> card.created
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 501 NOK pin=right        -> command.rejected exceeds_available
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable
        draw      $A1 1 NOK pin=wrong          -> command.rejected card_not_usable  # A1: 500 unused
        draw      $A1 1 NOK pin=right          -> card.drawn_down
    """,
    "what could be guessed is not made": """
        create    A1 5 NOK token format=numbers:15         -> command.rejected format_invalid
        create    A1 5 NOK token format=characters:11      -> command.rejected format_invalid
        create    A1 5 NOK token format=none:20            -> command.rejected invalid
        create    A1 5 NOK token pin format=numbers:7      -> command.rejected format_invalid
        create    A1 5 NOK pin=3                           -> command.rejected format_invalid
        batch     B1: A1 token format=numbers:15           -> command.rejected format_invalid
        create    A1 5 NOK token format=characters:12      -> card.created
        token     A1 t1 format=characters:8                -> command.rejected format_invalid
        repin     A1 format=numbers:3                      -> command.rejected format_invalid
        repin     A1 format=numbers:6                      -> card.pin_rotated
    """,
    "secrets need an owner": """
        create    A1 5 NOK token unsealed      -> command.rejected invalid
        batch     B1: A1 A2 pin unsealed       -> command.rejected invalid
        create    A1 5 NOK                     -> card.created
        token     A1 t1 unsealed               -> command.rejected invalid
        repin     A1 unsealed                  -> command.rejected invalid
        account   recipients=owner
        create    A2 5 NOK token unsealed      -> card.created
        batch     B2: A3 A4 pin unsealed       -> batch.completed
        token     A1 t2 unsealed               -> token.created
        repin     A1 unsealed                  -> card.pin_rotated
        draw      $t2 1 NOK pin=right          -> card.drawn_down
    """,
}


def _cells() -> dict[str, str]:
    cells = {
        "codes of a card that nobody made": """
            repin     A0                       -> command.rejected card_not_found
            token     A0 t0                    -> command.rejected card_not_found
            revoke    A0 $nobody               -> command.rejected card_not_found
        """
    }
    for status in ("inactive", "due", "closed", "blocked", "unused"):
        done = ("card.pin_rotated", "token.created", "token.revoked")
        pin, token, revoked = ["command.rejected card_closed"] * 3 if status == "closed" else done
        cells[f"codes of a card that is {status}"] = f"""
            given     A1 unused
            token     A1 t1                    -> token.created
            turn      A1 {status}
            repin     A1                       -> {pin}
            token     A1 t2                    -> {token}
            revoke    A1 $t1                   -> {revoked}
        """
    for status in ("used", "partially_used"):
        cells[f"codes of a card that is {status}"] = f"""
            given     A1 {status}
            repin     A1                       -> card.pin_rotated
            token     A1 t2                    -> token.created
            revoke    A1 $t2                   -> token.revoked
        """
    return cells


CELLS = _cells()
"""For each command about these, and each status of its card."""
