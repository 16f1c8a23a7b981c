"""Stories of orders: what is made piece by piece, and what may be done meanwhile."""

from card_worker.contracts.batches import WAITING_ORDERS_MAX

STORIES = {
    "an order is taken, and its names with it": """
        order     B1: 20 A{n:02d}              -> batch.accepted
        create    A07 5 NOK                    -> command.rejected card_exists
        create    A21 5 NOK                    -> card.created       # A21: 5 unused
        create    A7 5 NOK                     -> card.created       # A7: 5 unused
        batch     B2: X1 A20                   -> command.rejected card_exists
        order     B3: 5 A{n:02d}               -> command.rejected card_exists
        order     B1: 5 X{n}                   -> command.rejected batch_state
        replace   A21 to=A05                   -> command.rejected batch_state
        """,
    "nobody gets at a card before the last one is made": """
        order     B1: 2 A{n}                   -> batch.accepted
        activate  A1 5 NOK                     -> command.rejected batch_state
        block     A1                           -> command.rejected batch_state
        draw      A1 5 NOK                     -> command.rejected batch_state
        made      B1
        activate  A1 5 NOK                     -> card.activated     # A1: 5 unused
        draw      A1 5 NOK                     -> card.drawn_down    # A1: 0 used
        create    A2 5 NOK                     -> command.rejected card_exists
        create    A3 5 NOK                     -> card.created
        """,
    "an order that needs approval waits for somebody else": """
        order     B1: 2 A{n} waits             -> command.rejected invalid
        order     B1: 2 A{n} waits by=kari     -> batch.awaiting_approval
        activate  A1 5 NOK                     -> command.rejected batch_state
        create    A1 5 NOK                     -> command.rejected card_exists
        approve   B1                           -> command.rejected invalid
        approve   B1 by=kari                   -> command.rejected invalid
        approve   B1 by=kari not_after=-1s     -> command.rejected invalid
        approve   B2 by=ola                    -> command.rejected batch_not_found
        approve   B2                           -> command.rejected invalid
        block-all B1 first=999 not_after=-1s   -> command.rejected invalid
        approve   B1 by=ola                    -> batch.approved
        approve   B1 by=eva                    -> command.rejected batch_state
        """,
    "an account may want approval": """
        account   approve_from=3
        order     B1: 2 A{n}                   -> batch.accepted
        order     B2: 3 X{n}                   -> command.rejected invalid
        order     B2: 3 X{n} by=kari           -> batch.awaiting_approval
        batch     B3: Y1 Y2 Y3 by=kari         -> batch.awaiting_approval
        activate  Y1 5 NOK                     -> command.rejected batch_state
        create    Y3 5 NOK                     -> command.rejected card_exists
        order     B4: 9 Y{n} by=kari           -> command.rejected card_exists
        approve   B3 by=ola                    -> batch.approved
        batch     B5: Z1 Z2                    -> batch.completed    # Z1: 0 inactive
        """,
    "what waits, or is being made, can be let go": """
        order     B1: 2 A{n} waits by=kari     -> batch.awaiting_approval
        cancel    B1                           -> batch.cancelled
        create    A1 5 NOK                     -> card.created
        approve   B1 by=ola                    -> command.rejected batch_state
        cancel    B1                           -> command.rejected batch_state
        cancel    B2                           -> command.rejected batch_not_found
        order     B3: 2 X{n}                   -> batch.accepted
        cancel    B3                           -> batch.cancelled
        create    X1 5 NOK                     -> card.created
        block-all B3                           -> command.rejected batch_state
        """,
    "of what is complete, the rest is let go": """
        order     B1: 3 A{n}                   -> batch.accepted
        made      B1
        activate  A1 5 NOK                     -> card.activated
        cancel    B1                           -> batch.cancelled
        activate  A2 5 NOK                     -> command.rejected batch_state
        draw      A1 5 NOK                     -> card.drawn_down    # A1: 0 used
        block-all B1                           -> command.rejected batch_state
        create    A4 5 NOK                     -> card.created
        """,
    "cards are called back, all or some": """
        order      B1: 3 A{n}                  -> batch.accepted
        block-all  B1                          -> command.rejected batch_state
        made       B1
        block-all  B1                          -> batch.recalling
        unblock-all B1 first=2                 -> batch.recalling
        close-all  B1 first=2 last=2           -> batch.recalling
        close-all  B1 first=2 last=1           -> command.rejected invalid
        close-all  B1 last=4                   -> command.rejected invalid
        close-all  B1 first=4                  -> command.rejected invalid
        close-all  B2                          -> command.rejected batch_not_found
        extend-all B1 expires=+1d              -> batch.recalling
        extend-all B1 expires=-1d              -> command.rejected invalid
        batch      B3: X1 X2                   -> batch.completed
        block-all  B3 last=1                   -> batch.recalling
        """,
    "an order that nobody approves in time can't be approved any more": """
        order     B1: 2 A{n} waits by=kari     -> batch.awaiting_approval
        batch     B2: X1 waits by=kari         -> batch.awaiting_approval
        wait      29d
        approve   B2 by=ola                    -> batch.approved
        wait      1d
        approve   B1 by=ola                    -> command.rejected batch_state
        cancel    B1                           -> batch.cancelled
        create    A1 5 NOK                     -> card.created
        """,
    "a list that waits reserves its names until it is let go": """
        batch     B1: X1 X2 waits by=kari      -> batch.awaiting_approval
        create    X1 5 NOK                     -> command.rejected card_exists
        batch     B2: X2                       -> command.rejected card_exists
        order     B3: 3 X{n}                   -> command.rejected card_exists
        cancel    B1                           -> batch.cancelled
        create    X1 5 NOK                     -> card.created
        batch     B2: X2 waits by=kari         -> batch.awaiting_approval
        create    X2 5 NOK                     -> command.rejected card_exists
        """,
    "an account has a limited number of orders that wait": "\n".join(
        [
            *(
                f"order B{n}: 1 B{n}-{{n}} waits by=kari -> batch.awaiting_approval"
                for n in range(WAITING_ORDERS_MAX)
            ),
            "batch     B: X1 waits by=kari          -> command.rejected too_many_waiting",
            "batch     B: X1 by=kari                -> batch.completed",
            "approve   B0 by=ola                    -> batch.approved",
            "batch     C: Y1 waits by=kari          -> batch.awaiting_approval",
            "order     D: 1 Z{n} waits by=kari      -> command.rejected too_many_waiting",
            "cancel    B1                           -> batch.cancelled",
            "order     D: 1 Z{n} waits by=kari      -> batch.awaiting_approval",
        ]
    ),
    "a dry run takes no name": """
        dry order B1: 2 A{n}                   -> batch.accepted
        create    A1 5 NOK                     -> card.created
        order     B1: 2 A{n}                   -> command.rejected card_exists
        order     B1: 2 X{n}                   -> batch.accepted
        dry cancel B1                          -> batch.cancelled
        create    X1 5 NOK                     -> command.rejected card_exists
        """,
}
