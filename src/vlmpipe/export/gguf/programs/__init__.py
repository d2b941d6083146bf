"""Programs that run in processes of their own, beside nothing that could shadow a library."""
